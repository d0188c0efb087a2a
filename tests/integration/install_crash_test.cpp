// install and destroy, killed before their system calls, with failing system calls and with the power cut:
// whatever is left, another install completes it and destroy --purge takes all of it away. Real programs, the
// built-in supervisor, no VM.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iostream>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "host/state.h"
#include "integration/crash_sweep.h"
#include "integration/installed_host.h"
#include "integration/loop_disk.h"

namespace fs = std::filesystem;
using namespace dstack;
using test::choose_places;
using test::InstalledHost;
using test::SystemCall;
using test::Tally;
using test::where;

namespace {

class InstallCrash : public test::OnInstalledHost {
 protected:
  void SetUp() override {
    DSTACK_NEEDS_STRACE();
    OnInstalledHost::SetUp();
  }

  // A clean run's calls. Leaves the installation as that run does.
  std::vector<SystemCall> record(const std::vector<std::string>& argv) {
    base::Output output;
    auto calls = test::trace_calls(argv, output);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return calls;
  }

  // Processes of the program that supervises, the one that only starts it among them.
  static std::vector<pid_t> supervisors() {
    std::vector<pid_t> out;
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const auto command = base::read_file(entry.path() / "cmdline");
      if (command && command->find(std::string_view("\0supervise\0", 11)) != std::string::npos) {
        out.push_back(static_cast<pid_t>(std::stol(entry.path().filename().string())));
      }
    }
    return out;
  }
};

}  // namespace

TEST_F(InstallCrash, InstallKilledAnywhere) {
  const auto calls = record(host.install());
  ASSERT_EQ(host.not_converged(), "");
  ASSERT_EQ(host.take_away(), "");
  Tally tally;
  int number = 0;
  for (const auto& call : choose_places(calls, 6)) {
    SCOPED_TRACE("killed before " + where(call));
    // Both ways out, in turn; each in the full sweep.
    for (const bool go_on : {true, false}) {
      if (!test::full_sweep() && go_on != (number % 2 == 0)) {
        continue;
      }
      const auto killed = test::run_with_fault(host.install(), call, "signal=KILL");
      tally.hit += killed.hit ? 1 : 0;
      ++tally.tried;
      const auto identity = host.identity();
      if (go_on) {
        EXPECT_EQ(host.go_on(), "");
        EXPECT_TRUE(host.identity().starts_with(identity)) << "token or seed changed";
      }
      EXPECT_EQ(host.take_away(), "");
      if (HasFailure()) {
        return;
      }
    }
    ++number;
  }
  tally.expect_hits("install", 20);
}

TEST_F(InstallCrash, PurgeKilledAnywhere) {
  // An image and a VM are known by a file in them, which may be the first to go.
  const auto add_data = [&] {
    for (const auto& path : {host.layout().images() / "dstack-9", host.layout().vms() / "imported"}) {
      fs::create_directories(path);
      for (const char* name : {"a", "metadata.json", "vm-manifest.json", "z"}) {
        std::ofstream(path / name) << "{}";
      }
    }
  };
  ASSERT_EQ(host.go_on(), "");
  add_data();
  const auto calls = record(host.destroy());
  Tally tally;
  for (const auto& call : choose_places(calls, 4)) {
    SCOPED_TRACE("killed before " + where(call));
    ASSERT_EQ(host.run(host.install()).exit_code, 0);
    add_data();
    const auto killed = test::run_with_fault(host.destroy(), call, "signal=KILL");
    tally.hit += killed.hit ? 1 : 0;
    if (tally.tried++ % 4 == 0) {
      EXPECT_EQ(host.go_on(), "");
    }
    EXPECT_EQ(host.take_away(), "");
    if (HasFailure()) {
      return;
    }
  }
  tally.expect_hits("destroy --purge", 10);
}

TEST_F(InstallCrash, TakingDownKilledAnywhereKeepsTheApps) {
  ASSERT_EQ(host.go_on(), "");
  const auto calls = record(host.destroy({}));
  ASSERT_EQ(host.go_on(), "");
  host.register_app();
  const auto identity = host.identity();
  Tally tally;
  for (const auto& call : choose_places(calls, 5)) {
    SCOPED_TRACE("killed before " + where(call));
    tally.hit += test::run_with_fault(host.destroy({}), call, "signal=KILL").hit ? 1 : 0;
    ++tally.tried;
    EXPECT_EQ(host.go_on(), "");
    EXPECT_TRUE(host.has_app());
    EXPECT_EQ(host.identity(), identity);
    if (HasFailure()) {
      return;
    }
  }
  tally.expect_hits("destroy", 3);
  EXPECT_EQ(host.take_away(), "");
}

// A changed flag, killed on its way in: the next install with it brings it to the services.
TEST_F(InstallCrash, AChangeKilledAnywhereArrives) {
  ASSERT_EQ(host.go_on(), "");
  host.register_app();
  const auto identity = host.identity();
  const auto calls = record(host.install({"--dashboard-port", "9100"}));
  Tally tally;
  std::uint16_t port = 9101;
  for (const auto& call : choose_places(calls, 4)) {
    SCOPED_TRACE("killed before " + where(call));
    const std::vector<std::string> change{"--dashboard-port", std::to_string(port)};
    tally.hit += test::run_with_fault(host.install(change), call, "signal=KILL").hit ? 1 : 0;
    ++tally.tried;
    EXPECT_EQ(host.run(host.install(change)).exit_code, 0);
    const auto state = host::load_state(host.layout().state_file());
    EXPECT_TRUE(state && *state && (*state)->dashboard_port() == port) << "the change did not arrive";
    ++port;
    EXPECT_EQ(host.not_converged(), "");
    EXPECT_TRUE(host.has_app());
    EXPECT_EQ(host.identity(), identity);
    if (HasFailure()) {
      return;
    }
  }
  tally.expect_hits("a change", 3);
  EXPECT_EQ(host.take_away(), "");
}

// What install starts dies instead of install itself: so long after it appeared.
TEST_F(InstallCrash, TheSupervisorKilledAtAnyMoment) {
  const int trials = test::full_sweep() ? 40 : 6;
  for (int trial = 0; trial < trials; ++trial) {
    SCOPED_TRACE(base::format("killed after {} ms", trial * 15));
    const auto install = base::spawn({.argv = host.install()});
    ASSERT_TRUE(install);
    for (int i = 0; i < 30'000 && supervisors().empty(); ++i) {
      ::usleep(1000);
    }
    ::usleep(static_cast<useconds_t>(trial) * 15'000);
    int killed = 0;
    for (const pid_t pid : supervisors()) {
      killed += ::kill(pid, SIGKILL) == 0 ? 1 : 0;
    }
    EXPECT_GT(killed, 0);
    int status = 0;
    ::waitpid(*install, &status, 0);
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(host.go_on(), "");
    EXPECT_EQ(host.take_away(), "");
  }
}

namespace {

class FailingInstall : public InstallCrash, public testing::WithParamInterface<const char*> {
 protected:
  // The calls that a file system answers, on files of ours.
  static bool can_fail(const SystemCall& call) {
    return test::changes_something(call) && call.name != "connect" && call.name != "sendto" &&
           (call.line.find("/dstack") != std::string::npos);
  }
  // How the error is called in a message.
  static std::string words() {
    const std::string error = GetParam();
    return error == "ENOSPC" ? "No space left" : error == "EIO" ? "Input/output" : "Read-only";
  }
};

}  // namespace

TEST_P(FailingInstall, IsReportedAndAnotherGoesOn) {
  const std::string error = GetParam();
  const auto calls = record(host.install());
  ASSERT_EQ(host.take_away(), "");
  Tally tally;
  std::size_t number = 0;
  for (const auto& call : calls) {
    if (!can_fail(call) || (!test::full_sweep() && number++ % 9 != error.size() % 9)) {
      continue;
    }
    SCOPED_TRACE(where(call) + " gives " + error);
    const auto failed = test::run_with_fault(host.install(), call, "error=" + error);
    ++tally.tried;
    tally.hit += failed.hit ? 1 : 0;
    EXPECT_TRUE(failed.output.exit_code == 0 || failed.output.exit_code == 1) << failed.output.exit_code;
    if (failed.output.exit_code != 0) {
      EXPECT_NE(failed.output.err.find(words()), std::string::npos) << failed.output.err;
    } else {
      EXPECT_EQ(host.not_converged(), "") << "it says that all is well";
    }
    if (tally.tried % 2 == 0) {
      EXPECT_EQ(host.go_on(), "");
    }
    EXPECT_EQ(host.take_away(), "");
    if (HasFailure()) {
      return;
    }
  }
  tally.expect_hits(error.c_str(), 6);
}

TEST_P(FailingInstall, PurgeIsReportedAndAnotherGoesOn) {
  const std::string error = GetParam();
  ASSERT_EQ(host.go_on(), "");
  const auto calls = record(host.destroy());
  Tally tally;
  std::size_t number = 0;
  for (const auto& call : calls) {
    if (!can_fail(call) || (!test::full_sweep() && number++ % 6 != error.size() % 6)) {
      continue;
    }
    SCOPED_TRACE(where(call) + " gives " + error);
    ASSERT_EQ(host.run(host.install()).exit_code, 0);
    const auto failed = test::run_with_fault(host.destroy(), call, "error=" + error);
    ++tally.tried;
    tally.hit += failed.hit ? 1 : 0;
    EXPECT_TRUE(failed.output.exit_code == 0 || failed.output.exit_code == 1) << failed.output.exit_code;
    if (failed.output.exit_code != 0) {
      EXPECT_NE(failed.output.err.find(words()), std::string::npos) << failed.output.err;
    } else {
      EXPECT_EQ(host.left_behind(), "") << "it says that all is gone";
    }
    EXPECT_EQ(host.take_away(), "");
    if (HasFailure()) {
      return;
    }
  }
  tally.expect_hits(error.c_str(), 3);
}

INSTANTIATE_TEST_SUITE_P(Errors, FailingInstall, testing::Values("ENOSPC", "EIO", "EROFS"));

// Every program meets the full disk here, the services too.
TEST_F(InstallCrash, AFullDisk) {
  const fs::path mount = "/srv";
  for (const int kib : {4, 16, 32, 64, 128, 4096, 16384, 32768}) {
    SCOPED_TRACE(base::format("{} KiB", kib));
    ASSERT_EQ(::mount("tmpfs", mount.c_str(), "tmpfs", 0, base::format("size={}k", kib).c_str()), 0);
    InstalledHost full((mount / "p").string(), {"--ignore-preflight-errors", "disk"});
    full.remember_clean();
    const auto output = full.run(full.install());
    EXPECT_TRUE(output.exit_code == 0 || output.exit_code == 1) << output.exit_code << output.err;
    ASSERT_EQ(::mount("tmpfs", mount.c_str(), "tmpfs", MS_REMOUNT, "size=1g"), 0);
    EXPECT_EQ(full.go_on(), "") << output.err;
    EXPECT_EQ(full.take_away(), "");
    test::kill_everything();
    ASSERT_EQ(::umount(mount.c_str()), 0) << std::strerror(errno);
  }
}

namespace {

class InstallPowerCut : public InstallCrash, public testing::WithParamInterface<const char*> {
 protected:
  void SetUp() override {
    InstallCrash::SetUp();
    if (!IsSkipped()) {
      DSTACK_NEEDS_LOOP_DISK(disk);
    }
  }
  std::string cut_power() { return disk.cut_power(test::kill_everything); }

  test::LoopDisk disk{"/srv", GetParam()};
};

}  // namespace

TEST_P(InstallPowerCut, AnInstallationSurvives) {
  InstalledHost powered((disk.mount_point() / "p").string(), {"--ignore-preflight-errors", "disk"});
  powered.remember_clean();
  ASSERT_EQ(powered.run(powered.install()).exit_code, 0);
  powered.register_app();
  const auto identity = powered.identity();
  ASSERT_EQ(cut_power(), "");
  EXPECT_EQ(powered.identity(), identity) << "what install reported as done is lost";
  EXPECT_TRUE(powered.has_app());
  EXPECT_EQ(powered.go_on(), "");
  EXPECT_EQ(powered.identity(), identity);
  EXPECT_EQ(powered.take_away(), "");
}

TEST_P(InstallPowerCut, InTheMiddle) {
  InstalledHost powered((disk.mount_point() / "p").string(), {"--ignore-preflight-errors", "disk"});
  powered.remember_clean();
  const auto install_calls = record(powered.install());
  const auto destroy_calls = record(powered.destroy());
  Tally tally;
  for (const bool destroying : {false, true}) {
    for (const auto& call : choose_places(destroying ? destroy_calls : install_calls, destroying ? 6 : 12)) {
      if (!test::changes_something(call)) {
        continue;
      }
      SCOPED_TRACE(
          base::format("power cut before {} of {}", where(call), destroying ? "destroy" : "install"));
      if (destroying) {
        ASSERT_EQ(powered.run(powered.install()).exit_code, 0);
      }
      const auto argv = destroying ? powered.destroy() : powered.install();
      tally.hit += test::run_with_fault(argv, call, "signal=KILL").hit ? 1 : 0;
      ASSERT_EQ(cut_power(), "");
      if (tally.tried++ % 2 == 0) {
        EXPECT_EQ(powered.go_on(), "");
      }
      EXPECT_EQ(powered.take_away(), "");
      if (HasFailure()) {
        return;
      }
    }
  }
  tally.expect_hits("power cuts", 6);
}

INSTANTIATE_TEST_SUITE_P(FileSystems, InstallPowerCut, testing::ValuesIn(test::k_loop_disk_types),
                         [](const auto& type) { return std::string(type.param); });
