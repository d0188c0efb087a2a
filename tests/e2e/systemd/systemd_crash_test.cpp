// install and destroy killed before their system calls on a machine that systemd runs: the units, their
// enabling and systemd's jobs are between one step and the next. Whatever is left, another install completes
// it and destroy --purge takes all of it away. Real programs, no VM; in the machine of boot.sh.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <thread>

#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "integration/crash_sweep.h"
#include "integration/installed_host.h"

namespace fs = std::filesystem;
using namespace dstack;
using test::InstalledHost;
using test::SystemCall;
using test::Tally;
using test::where;

namespace {

std::string systemctl(std::vector<std::string> words) {
  words.insert(words.begin(), "systemctl");
  const auto output = base::run({.argv = std::move(words)});
  return output ? output->out : output.error().what();
}

// In the full sweep all that change something: systemd takes its time for each, and what only looks is
// between them in the sweep without it.
std::vector<SystemCall> places(const std::vector<SystemCall>& calls, std::size_t k) {
  auto out = test::choose_places(calls, k);
  if (test::full_sweep()) {
    std::erase_if(out, [](const SystemCall& call) { return !test::changes_something(call); });
  }
  return out;
}

class SystemdCrash : public testing::Test {
 protected:
  void SetUp() override {
    DSTACK_NEEDS_SANDBOX();
    DSTACK_NEEDS_STRACE();
    clean = test::host_snapshot();
  }
  // So that one test's failure is not the next one's.
  void TearDown() override {
    if (!HasFailure()) {
      return;
    }
    systemctl({"stop", "dstack-auth", "dstack-vmm"});
    const auto& layout = host.layout();
    std::error_code ignored;
    for (const auto& path : {layout.config, layout.state, layout.cache, layout.run, layout.libexec,
                             layout.bin / "dstackup", layout.bin / "dstack"}) {
      fs::remove_all(path, ignored);
    }
    for (const char* unit : {"dstack-auth.service", "dstack-vmm.service"}) {
      fs::remove(fs::path("/etc/systemd/system") / unit, ignored);
      fs::remove(fs::path("/etc/systemd/system/multi-user.target.wants") / unit, ignored);
    }
    systemctl({"daemon-reload"});
    systemctl({"reset-failed"});
  }

  std::vector<SystemCall> record(const std::vector<std::string>& argv) {
    base::Output output;
    auto calls = test::trace_calls(argv, output);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return calls;
  }

  // Empty when the installation is complete and systemd knows it just so.
  std::string not_converged() const {
    if (auto problem = host.not_converged(); !problem.empty()) {
      return problem;
    }
    for (const char* unit : {"dstack-auth", "dstack-vmm"}) {
      const auto state =
          systemctl({"show", "--property=ActiveState,UnitFileState,NeedDaemonReload,Result,LoadState", unit});
      for (const char* line : {"ActiveState=active\n", "UnitFileState=enabled\n", "NeedDaemonReload=no\n",
                               "Result=success\n", "LoadState=loaded\n"}) {
        if (state.find(line) == std::string::npos) {
          return base::format("{} is\n{}", unit, state);
        }
      }
    }
    return {};
  }
  std::string go_on() const {
    const auto first = host.run(host.install());
    return first.exit_code == 0 ? not_converged() : "install does not go on: " + first.err;
  }
  std::string take_away() const {
    if (const auto gone = host.run(host.destroy()); gone.exit_code != 0) {
      return "destroy fails: " + gone.err;
    }
    // systemd forgets a unit, and the kernel a cgroup, a moment later.
    std::string left;
    for (int i = 0; i < 100; ++i) {
      left = test::difference(clean, test::host_snapshot());
      if (left.empty()) {
        return left;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
    return "destroy --purge leaves\n" + left;
  }

  InstalledHost host;
  std::set<std::string> clean;
};

}  // namespace

TEST_F(SystemdCrash, InstallKilledAnywhere) {
  const auto calls = record(host.install());
  ASSERT_EQ(not_converged(), "");
  ASSERT_EQ(take_away(), "");
  Tally tally;
  int number = 0;
  for (const auto& call : places(calls, 40)) {
    SCOPED_TRACE("killed before " + where(call));
    // Both ways out, in turn; each in the full sweep.
    for (const bool go_on_first : {true, false}) {
      if (!test::full_sweep() && go_on_first != (number % 2 == 0)) {
        continue;
      }
      tally.hit += test::run_with_fault(host.install(), call, "signal=KILL").hit ? 1 : 0;
      ++tally.tried;
      const auto identity = host.identity();
      if (go_on_first) {
        EXPECT_EQ(go_on(), "");
        EXPECT_TRUE(host.identity().starts_with(identity)) << "token or seed changed";
      }
      EXPECT_EQ(take_away(), "");
      if (HasFailure()) {
        return;
      }
    }
    ++number;
  }
  tally.show("install");
  EXPECT_GT(tally.tried, 12);
  EXPECT_GE(tally.hit * 10, tally.tried * 9) << "the sweep does not kill where it means to";
}

TEST_F(SystemdCrash, PurgeKilledAnywhere) {
  ASSERT_EQ(go_on(), "");
  const auto calls = record(host.destroy());
  Tally tally;
  for (const auto& call : places(calls, 9)) {
    SCOPED_TRACE("killed before " + where(call));
    ASSERT_EQ(host.run(host.install()).exit_code, 0);
    tally.hit += test::run_with_fault(host.destroy(), call, "signal=KILL").hit ? 1 : 0;
    if (tally.tried++ % 3 == 0) {
      EXPECT_EQ(go_on(), "");
    }
    EXPECT_EQ(take_away(), "");
    if (HasFailure()) {
      return;
    }
  }
  tally.show("destroy --purge");
  EXPECT_GT(tally.tried, 5);
}

// With an app and a changed flag, since both have to survive or arrive.
TEST_F(SystemdCrash, AChangeAndATakingDownKilledAnywhereKeepTheApps) {
  ASSERT_EQ(go_on(), "");
  host.register_app();
  const auto identity = host.identity();
  const auto changing = record(host.install({"--dashboard-port", "9100"}));
  const auto destroying = record(host.destroy({}));
  ASSERT_EQ(go_on(), "");
  std::uint16_t port = 9101;
  Tally tally;
  for (const bool change : {true, false}) {
    for (const auto& call : places(change ? changing : destroying, 16)) {
      SCOPED_TRACE(base::format("{} killed before {}", change ? "change" : "destroy", where(call)));
      const std::vector<std::string> flags{"--dashboard-port", std::to_string(port++)};
      tally.hit +=
          test::run_with_fault(change ? host.install(flags) : host.destroy({}), call, "signal=KILL").hit ? 1
                                                                                                         : 0;
      ++tally.tried;
      EXPECT_EQ(host.run(host.install(change ? flags : std::vector<std::string>{})).exit_code, 0);
      EXPECT_EQ(not_converged(), "");
      EXPECT_TRUE(host.has_app());
      EXPECT_EQ(host.identity(), identity);
      if (HasFailure()) {
        return;
      }
    }
  }
  tally.show("change, destroy");
  EXPECT_EQ(take_away(), "");
}

// systemd does what it was asked for, but its answer never arrives.
TEST_F(SystemdCrash, TheBusIsLostAnywhere) {
  const auto calls = record(host.install());
  ASSERT_EQ(take_away(), "");
  Tally tally;
  std::size_t number = 0;
  for (const auto& call : calls) {
    const bool on_the_bus = (call.name == "recvmsg" || call.name == "sendmsg" || call.name == "connect") &&
                            call.line.find("socket:") != std::string::npos;
    if (!on_the_bus || (!test::full_sweep() && number++ % 24 != 0)) {
      continue;
    }
    SCOPED_TRACE("lost at " + where(call));
    const auto failed = test::run_with_fault(host.install(), call, "error=ECONNRESET");
    tally.hit += failed.hit ? 1 : 0;
    ++tally.tried;
    EXPECT_TRUE(failed.output.exit_code == 0 || failed.output.exit_code == 1) << failed.output.exit_code;
    if (tally.tried % 2 == 0) {
      EXPECT_EQ(go_on(), "");
    }
    EXPECT_EQ(take_away(), "");
    if (HasFailure()) {
      return;
    }
  }
  tally.show("lost bus");
  EXPECT_GT(tally.hit, 3);
}

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (std::getenv("DSTACK_MACHINE") == nullptr) {
    std::cerr << "skipped: not in the machine of boot.sh\n";
    return 77;
  }
  return test::run_in_machine(DSTACK_PROGRAMS_DIR, [] { return RUN_ALL_TESTS(); });
}
