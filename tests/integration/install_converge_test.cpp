// install again and again: what it prints as its plan, that it changes what was asked for and nothing else,
// that it writes nothing when there is nothing to do, and what it says to a record that it cannot use. Real
// programs, no VM.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/format.h"
#include "base/fs.h"
#include "host/journal.h"
#include "host/state.h"
#include "integration/installed_host.h"

namespace fs = std::filesystem;
using namespace dstack;
using testing::HasSubstr;
using testing::IsEmpty;

namespace {

class InstallConverge : public test::OnInstalledHost {
 protected:
  // pid of the service's program, by what its command line holds.
  static pid_t process_of(const std::string& program) {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const auto command = base::read_file(entry.path() / "cmdline");
      const auto name = command ? fs::path(command->substr(0, command->find('\0'))).filename() : fs::path();
      if (name == program) {
        return static_cast<pid_t>(std::stol(entry.path().filename().string()));
      }
    }
    return 0;
  }
};

std::set<std::string> words_of_kind(const nlohmann::json& plan, const std::string& kind) {
  std::set<std::string> out;
  for (const auto& step : plan["steps"]) {
    for (const auto& entry : step["creates"]) {
      if (entry["kind"] == kind) {
        out.insert(entry["name"]);
      }
    }
  }
  return out;
}

}  // namespace

TEST_F(InstallConverge, ThePlanNamesAllThatIsMadeAndMakesNothing) {
  const auto before = test::host_snapshot();
  const auto output = host.run(host.install({"--dry-run", "--json", "--cid-start", "5000"}));
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "");
  const auto plan = nlohmann::json::parse(output.out);
  EXPECT_TRUE(plan["changes"]);
  std::map<std::string, std::string> ports;
  for (const auto& port : plan["ports"]) {
    ports[port["flag"]] = base::format("{} {} {}", port["port"].get<int>(), port["user"].get<std::string>(),
                                       port["origin"].get<std::string>());
    EXPECT_NE(port["why"], "");
  }
  EXPECT_EQ(ports["--dashboard-port"], "9080 dstack-vmm the default");
  EXPECT_EQ(ports["--auth-port"], "8001 dstack-auth the default");
  EXPECT_EQ(ports["--host-api-port"], "10000 dstack-vmm the default");
  EXPECT_EQ(plan["cids"]["first"], 5000);
  EXPECT_EQ(plan["cids"]["last"], 5999);
  EXPECT_EQ(plan["cids"]["origin"], "as given");
  for (const auto& step : plan["steps"]) {
    EXPECT_NE(step["why"], "");
    EXPECT_NE(step["todo"], "");
  }
  // Everything that lies there after the run was named, itself or a directory of it.
  ASSERT_EQ(host.run(host.install({"--cid-start", "5000"})).exit_code, 0);
  std::set<std::string> named = words_of_kind(plan, "tree");
  for (const char* kind : {"file", "directory", "unit_file", "supervisor"}) {
    named.merge(words_of_kind(plan, kind));
  }
  const auto& l = host.layout();
  // The installer's own: the journal, its lock, and the directory that both lie in.
  named.merge(std::set<std::string>{l.journal(), l.install_lock(), l.state});
  for (const auto* root : {"/etc/dstack", "/var/lib/dstack", "/var/cache/dstack", "/run/dstack"}) {
    if (!fs::exists(root)) {
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      bool known = false;
      for (fs::path at = entry.path(); at != "/" && !known; at = at.parent_path()) {
        known =
            named.contains(at.string()) && (at == entry.path() || words_of_kind(plan, "tree").contains(at));
      }
      EXPECT_TRUE(known) << entry.path() << " is not in the plan";
    }
  }
  const auto text = host.run(host.install({"--dry-run"}));
  EXPECT_EQ(text.exit_code, 0);
  EXPECT_THAT(text.out, HasSubstr("9080 dstack-vmm: "));
  EXPECT_THAT(text.out, HasSubstr("5000-5999 dstack-vmm"));
  EXPECT_THAT(text.out, HasSubstr("as installed"));
  EXPECT_THAT(text.out, HasSubstr("[as it is]"));
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallConverge, ThePlanOfAChangeSaysWhatRestarts) {
  ASSERT_EQ(host.go_on(), "");
  const auto todo = [&](const std::vector<std::string>& flags) {
    auto more = flags;
    more.insert(more.end(), {"--dry-run", "--json"});
    const auto output = host.run(host.install(more));
    EXPECT_EQ(output.exit_code, 0) << output.err;
    std::map<std::string, std::string> out;
    const auto plan = nlohmann::json::parse(output.out, nullptr, false);
    for (const auto& step : plan["steps"]) {
      if (step["todo"] != "") {
        out[step["name"]] = step["todo"];
      }
    }
    return out;
  };
  using Map = std::map<std::string, std::string>;
  EXPECT_EQ(todo({}), Map());
  EXPECT_EQ(todo({"--dashboard-port", "9090"}),
            (Map{{"configuration", "change"}, {"record", "change"}, {"dstack-vmm", "restart"}}));
  EXPECT_EQ(todo({"--auth-port", "8002"}), (Map{{"record", "change"}, {"dstack-auth", "restart"}}));
}

TEST_F(InstallConverge, AChangedFlagReachesItsServiceAndNothingElse) {
  ASSERT_EQ(host.go_on(), "");
  host.register_app();
  const auto identity = host.identity();
  const auto before = host.state();
  const pid_t auth = process_of("dstack-auth");
  const pid_t vmm = process_of("dstack-vmm");
  ASSERT_GT(auth, 0);
  ASSERT_GT(vmm, 0);

  ASSERT_EQ(host.run(host.install({"--host-api-port", "10100"})).exit_code, 0);
  EXPECT_EQ(process_of("dstack-auth"), auth);
  const pid_t restarted = process_of("dstack-vmm");
  EXPECT_NE(restarted, vmm);
  EXPECT_EQ(host.state().host_api_port, 10100);

  ASSERT_EQ(host.run(host.install({"--auth-port", "8100"})).exit_code, 0);
  EXPECT_NE(process_of("dstack-auth"), auth);
  EXPECT_EQ(process_of("dstack-vmm"), restarted);
  EXPECT_EQ(host.state().host_api_port, 10100) << "what was set earlier stays";

  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.state().client_url, before.client_url);
  EXPECT_EQ(host.state().cid_start, before.cid_start);
  EXPECT_EQ(host.identity(), identity);
  EXPECT_TRUE(host.has_app());
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallConverge, ADamagedPartIsMadeAgain) {
  ASSERT_EQ(host.go_on(), "");
  const auto& l = host.layout();
  for (const auto& path : {l.vmm_toml(), l.token_file(), l.simulated_root(), l.state_file()}) {
    SCOPED_TRACE(path);
    if (path == l.state_file()) {
      fs::remove(path);
      // Without its record the ports look taken; the services are stopped as a user would.
      ASSERT_EQ(host.run(host.destroy({})).exit_code, 0);
    } else if (path == l.vmm_toml()) {
      std::ofstream(path) << "broken = ";
    } else {
      fs::remove(path);
    }
    EXPECT_EQ(host.go_on(), "");
  }
  EXPECT_EQ(host.take_away(), "");
}

// What a converged install does to the system, as strace sees it.
TEST_F(InstallConverge, NothingToDoWritesNothing) {
  DSTACK_NEEDS_STRACE();
  ASSERT_EQ(host.go_on(), "");
  const auto before = test::host_snapshot();
  // Locks and the journal are opened for writing, since locking needs that; nothing may be written.
  base::Output output;
  const auto changes = test::changes_to_files(
      host.install(),
      {host.layout().install_lock(), host.layout().journal(), host.layout().allowlist().string() + ".lock"},
      output);
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_THAT(output.out, HasSubstr("nothing to do"));
  EXPECT_THAT(changes, IsEmpty());
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "");
  // The list is empty for the right reason: a change is seen.
  const auto seen = test::changes_to_files(host.install({"--dashboard-port", "9095"}), {}, output);
  ASSERT_EQ(output.exit_code, 0) << output.err;
  EXPECT_GT(seen.size(), 8U);
}

// doctor and status as programs, before, during and after an installation.
TEST_F(InstallConverge, DoctorAndStatusTellWhatIsSo) {
  const std::string dstackup = test::sandbox_programs() / "dstackup";
  const auto doctor = [&] {
    const auto output = host.run(
        {dstackup, "doctor", "--platform", "simulated", "--qemu", test::stand_in_qemu().string(), "-j"});
    const auto json = nlohmann::json::parse(output.out, nullptr, false);
    EXPECT_FALSE(json.is_discarded()) << output.out << output.err;
    return std::pair(output.exit_code, json);
  };
  const auto verdict_of = [](const nlohmann::json& report, const std::string& name) {
    for (const auto& check : report["checks"]) {
      if (check["name"] == name) {
        return check["verdict"].get<std::string>();
      }
    }
    return std::string("no such check");
  };
  const auto [before_code, before] = doctor();
  EXPECT_EQ(before_code, 1);
  EXPECT_EQ(verdict_of(before, "image"), "failed");
  EXPECT_EQ(verdict_of(before, "vmm-service"), "skipped");
  EXPECT_NE(host.run({dstackup, "status"}).exit_code, 0);

  ASSERT_EQ(host.go_on(), "");
  const auto snapshot = test::host_snapshot();
  const auto [code, report] = doctor();
  EXPECT_THAT(code, testing::AnyOf(0, 3)) << report.dump(2);
  for (const auto* name : {"auth-service", "vmm-service", "allow-list"}) {
    EXPECT_EQ(verdict_of(report, name), "ok") << name;
  }
  EXPECT_EQ(host.run({dstackup, "status"}).exit_code, 0);
  EXPECT_EQ(test::difference(snapshot, test::host_snapshot()), "") << "neither may change anything";

  // Both notice a service that does not work, and status waits until the supervisor has brought it back.
  ASSERT_EQ(::kill(process_of("dstack-auth"), SIGSTOP), 0);
  EXPECT_EQ(doctor().first, 1);
  EXPECT_NE(host.run({dstackup, "status"}).exit_code, 0);
  ASSERT_EQ(::kill(process_of("dstack-auth"), SIGKILL), 0);
  const auto waited = host.run({dstackup, "status", "--wait=30"});
  EXPECT_EQ(waited.exit_code, 0) << waited.out << waited.err;
  EXPECT_THAT(doctor().first, testing::AnyOf(0, 3));
}

TEST_F(InstallConverge, TwoInstallersAtOnce) {
  for (int round = 0; round < 4; ++round) {
    std::array<pid_t, 3> children{};
    for (auto& child : children) {
      const auto pid = base::spawn({.argv = host.install()});
      ASSERT_TRUE(pid);
      child = *pid;
    }
    int succeeded = 0;
    for (const pid_t child : children) {
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFEXITED(status));
      EXPECT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 1);
      succeeded += WEXITSTATUS(status) == 0 ? 1 : 0;
    }
    EXPECT_GE(succeeded, 1);
    EXPECT_EQ(host.not_converged(), "");
    EXPECT_EQ(host.take_away(), "");
  }
}

TEST_F(InstallConverge, InstallAndDestroyAtOnce) {
  for (int round = 0; round < 4; ++round) {
    const auto install = base::spawn({.argv = host.install()});
    ASSERT_TRUE(install);
    ::usleep(static_cast<useconds_t>(round) * 20'000);
    const auto destroyed = host.run(host.destroy());
    int status = 0;
    ::waitpid(*install, &status, 0);
    EXPECT_TRUE(WIFEXITED(status)) << destroyed.err;
    EXPECT_EQ(host.go_on(), "");
    EXPECT_EQ(host.take_away(), "");
  }
}

TEST_F(InstallConverge, DestroyLooksAgainAfterItHasTheLock) {
  DSTACK_NEEDS_STRACE();
  ASSERT_TRUE(host::ensure_state_directory(host.layout()));
  // Held up at the lock, while an install comes and goes.
  std::vector<std::string> argv = {"strace", "-qq",         "-o", "/dev/null",
                                   "-e",     "trace=flock", "-e", "inject=flock:delay_enter=6000000:when=1"};
  std::ranges::copy(host.destroy(), std::back_inserter(argv));
  const auto destroy = base::spawn({.argv = argv});
  ASSERT_TRUE(destroy);
  ::usleep(500'000);
  EXPECT_EQ(host.run(host.install()).exit_code, 0);
  int status = 0;
  ASSERT_EQ(::waitpid(*destroy, &status, 0), *destroy);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(process_of("dstack-vmm"), 0);
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallConverge, AKeyProviderThatNeverStartedIsDestroyedWithoutDocker) {
  if (base::find_tool("docker")) {
    GTEST_SKIP() << "docker is installed";
  }
  ASSERT_EQ(host.go_on(), "");
  {
    auto journal = host::Journal::open(host.layout().journal());
    ASSERT_TRUE(journal);
    ASSERT_TRUE(journal->record({host::JournalEntry::Kind::compose, "dstack-kp-3443", "SGX key provider"}));
  }
  const auto destroyed = host.run(host.destroy());
  EXPECT_EQ(destroyed.exit_code, 0) << destroyed.err;
  EXPECT_THAT(destroyed.err, HasSubstr("docker is not installed"));
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallConverge, ASecondOneIsRefusedWhileOneWorks) {
  ASSERT_EQ(host.go_on(), "");
  const auto lock = base::FileLock::acquire(host.layout().install_lock());
  ASSERT_TRUE(lock);
  for (const auto& argv : {host.install(), host.destroy()}) {
    const auto output = host.run(argv);
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err, HasSubstr("another dstackup works on this installation"));
    EXPECT_THAT(output.err, HasSubstr("wait until it has finished"));
  }
}

TEST_F(InstallConverge, ACorruptRecordIsSaidAndDestroyGoesByTheJournal) {
  for (const std::string text : {"", "{", "[]", "{\"prefix\": 7}", "{\"state_version\": \"x\"}"}) {
    SCOPED_TRACE(text);
    ASSERT_EQ(host.go_on(), "");
    ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), text));
    const auto output = host.run(host.install());
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err, HasSubstr(host.layout().state_file().string()));
    EXPECT_THAT(output.err, HasSubstr("dstackup destroy"));
    EXPECT_EQ(*base::read_file(host.layout().state_file()), text) << "it is not repaired by guessing";
    EXPECT_EQ(host.take_away(), "");
  }
}

TEST_F(InstallConverge, ANewerRecordIsRefused) {
  ASSERT_EQ(host.go_on(), "");
  auto json = nlohmann::ordered_json::parse(*base::read_file(host.layout().state_file()));
  const auto good = json.dump(2) + "\n";
  json["state_version"] = host::k_state_version + 1;
  ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), json.dump()));
  const auto before = test::host_snapshot();
  for (const auto& argv : {host.install(), host.destroy(), host.destroy({})}) {
    const auto output = host.run(argv);
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err, HasSubstr("newer"));
    EXPECT_THAT(output.err, HasSubstr(host.layout().state_file().string()));
  }
  EXPECT_EQ(test::difference(before, test::host_snapshot()), "") << "what is not understood is not touched";
  ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), good));
  EXPECT_EQ(host.take_away(), "");
}

// A record without a version and without our keys, as the other implementation of dstackup writes it.
TEST_F(InstallConverge, AnOlderRecordIsBroughtUpToDate) {
  ASSERT_EQ(host.run(host.install({"--dashboard-port", "9191"})).exit_code, 0);
  const auto identity = host.identity();
  auto json = nlohmann::ordered_json::parse(*base::read_file(host.layout().state_file()));
  for (const char* key :
       {"state_version", "journal", "instance", "programs_dir", "qemu_path", "service_manager", "version",
        "kms_ca_cert", "kms_ca_sha256", "os_image_hash", "kms_image"}) {
    json.erase(key);
  }
  ASSERT_TRUE(base::write_file_atomic(host.layout().state_file(), json.dump()));
  EXPECT_EQ(host.go_on(), "");
  EXPECT_EQ(host.state().dashboard_port(), 9191);
  EXPECT_EQ(host.state().version, DSTACK_VERSION);
  EXPECT_EQ(host.identity(), identity);
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(InstallConverge, ABrokenJournalIsSaid) {
  ASSERT_EQ(host.go_on(), "");
  const auto text = *base::read_file(host.layout().journal());
  ASSERT_TRUE(base::write_file_atomic(host.layout().journal(), "not a line\n" + text));
  for (const auto& argv : {host.install(), host.destroy()}) {
    const auto output = host.run(argv);
    EXPECT_EQ(output.exit_code, 1);
    EXPECT_THAT(output.err, HasSubstr(host.layout().journal().string()));
  }
  // A torn last line is what a crash leaves: its effect never happened.
  ASSERT_TRUE(base::write_file_atomic(host.layout().journal(), text + "{\"kind\":\"fi"));
  EXPECT_EQ(host.go_on(), "");
  EXPECT_EQ(host.take_away(), "");
}
