// dstackup upgrade and rollback on an installation with the real programs and
// the built-in supervisor. A VM is stood in for by a process that is recorded
// as one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "host/programs.h"
#include "host/state.h"
#include "host/upgrade.h"
#include "host/vm_record.h"
#include "integration/installed_host.h"

namespace fs = std::filesystem;
using namespace dstack;
using testing::HasSubstr;

namespace {

// packaging/pack-programs, which may lie where the sandbox sees nothing.
std::string g_pack_script;

constexpr std::array k_programs = {"dstackup", "dstack", "dstack-auth", "dstack-vmm"};

class Upgrade : public test::OnInstalledHost {
 protected:
  void SetUp() override {
    OnInstalledHost::SetUp();
    if (IsSkipped()) {
      return;
    }
    const auto installed = host.run(host.install());
    ASSERT_EQ(installed.exit_code, 0) << installed.err;
    first = store.current().value_or("");
    ASSERT_FALSE(first.empty());
  }
  void TearDown() override {
    if (!test::sandbox_problem().empty()) {
      return;
    }
    if (vm > 0) {
      ::kill(vm, SIGKILL);
      ::waitpid(vm, nullptr, 0);
    }
    OnInstalledHost::TearDown();
    std::error_code error;
    fs::remove_all("/srv/programs", error);
  }

  // Other programs that do the same: bytes behind the end of an ELF file mean
  // nothing.
  fs::path others(const std::string& mark = "2") const {
    const fs::path directory = "/srv/programs/" + mark;
    fs::create_directories(directory);
    for (const auto* name : k_programs) {
      fs::remove(directory / name);  // the one of before may still be ending
      fs::copy_file(test::sandbox_programs() / name, directory / name);
      std::ofstream(directory / name, std::ios::app | std::ios::binary) << mark;
    }
    return directory;
  }
  // A VM manager that says who it is and does not work.
  static void spoil(const fs::path& program, const std::string& script) {
    fs::remove(program);
    std::ofstream(program) << "#!/bin/sh\ncase $1 in --version) echo " DSTACK_VERSION "; exit 0;; esac\n"
                           << script;
    fs::permissions(program, static_cast<fs::perms>(0755));
  }
  base::Output dstackup(std::vector<std::string> argv) const {
    argv.insert(argv.begin(), (test::sandbox_programs() / "dstackup").string());
    return host.run(argv);
  }
  // What the process of a service runs.
  std::string running(const std::string& program) const {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::error_code error;
      const auto exe = fs::read_symlink(entry.path() / "exe", error);
      if (!error && exe.filename() == program && exe.parent_path().parent_path() == store.versions()) {
        return exe.parent_path().filename().string();
      }
    }
    return "none";
  }
  // Other programs as `./dev dist` packs them: what is behind the end would not survive that.
  fs::path packed() const {
    const fs::path directory = "/srv/programs/packed";
    fs::create_directories(directory);
    std::ofstream(directory / "mark") << "another build";
    for (const auto* name : k_programs) {
      const auto made = base::run_checked(
          {.argv = {"objcopy", "--add-section", ".dstack_mark=" + (directory / "mark").string(),
                    (test::sandbox_programs() / name).string(), (directory / name).string()}});
      EXPECT_TRUE(made) << made.error().what();
    }
    std::ofstream(directory / "pack-programs") << g_pack_script;
    const auto pack = base::run_checked({.argv = {"bash", (directory / "pack-programs").string(),
                                                  directory.string(), "9.9.9", "/srv/programs"}});
    EXPECT_TRUE(pack) << pack.error().what();
    return pack ? fs::path(base::trim(pack->out)) : fs::path();
  }
  // The supervisor's process; 0: none.
  static pid_t supervisor() {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const auto command = base::read_file(entry.path() / "cmdline");
      if (command && command->find(std::string("\0supervise\0", 11)) != std::string::npos) {
        return static_cast<pid_t>(std::stol(entry.path().filename().string()));
      }
    }
    return 0;
  }
  void stand_in_for_a_vm() {
    vm = ::fork();
    if (vm == 0) {
      ::setsid();
      ::execlp("sleep", "sleep", "600", nullptr);
      ::_exit(1);
    }
    const auto directory = host.layout().vms() / "00000000-0000-4000-8000-000000000001";
    fs::create_directories(directory);
    const auto boot_id = base::read_file("/proc/sys/kernel/random/boot_id").value_or("");
    std::ofstream(directory / "qemu.json") << nlohmann::json{
        {"pid", vm}, {"start_time", *base::process_start_time(vm)}, {"boot_id", base::trim(boot_id)}};
    ASSERT_EQ(host::live_vms(host.layout().vms()).size(), 1U);
  }

  host::ProgramStore store{host.layout()};
  std::string first;
  pid_t vm = 0;
};

}  // namespace

TEST_F(Upgrade, InstallRunsItsOwnCopies) {
  EXPECT_EQ(running("dstack-vmm"), first);
  EXPECT_EQ(running("dstack-auth"), first);
  EXPECT_EQ(host::inspect_programs(store.directory(first))->id, first);
  EXPECT_EQ(fs::canonical(host.layout().bin / "dstackup"), store.directory(first) / "dstackup");
  // Another build of this program changes nothing by itself, and says so.
  const auto directory = others();
  auto argv = host.install({"--json"});
  argv.front() = (directory / "dstackup").string();
  const auto again = host.run(argv);
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_FALSE(nlohmann::json::parse(again.out)["changed"].get<bool>()) << again.out << again.err;
  EXPECT_EQ(store.current(), first);
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(Upgrade, ThereAndBackWhileVmsRun) {
  stand_in_for_a_vm();
  const auto identity = host.identity();
  const auto directory = others();
  const auto dry = dstackup({"upgrade", "--from", directory.string(), "--dry-run", "--json"});
  ASSERT_EQ(dry.exit_code, 0) << dry.err;
  EXPECT_TRUE(nlohmann::json::parse(dry.out)["changes"].get<bool>());
  EXPECT_EQ(store.current(), first);

  const auto up = dstackup({"upgrade", "--from", directory.string()});
  ASSERT_EQ(up.exit_code, 0) << up.err;
  const auto second = store.current().value_or("");
  EXPECT_EQ(second, host::inspect_programs(directory)->id);
  EXPECT_EQ(running("dstack-vmm"), second);
  EXPECT_EQ(running("dstack-auth"), second);
  EXPECT_EQ(store.previous(), first);
  EXPECT_EQ(host::live_vms(host.layout().vms()).size(), 1U);
  EXPECT_EQ(host.identity(), identity);
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(dstackup({"upgrade", "--from", directory.string()}).out,
            "nothing to do, these programs run already\n");

  const auto back = dstackup({"rollback"});
  ASSERT_EQ(back.exit_code, 0) << back.err;
  EXPECT_EQ(running("dstack-vmm"), first);
  EXPECT_EQ(store.previous(), second);
  EXPECT_EQ(host::live_vms(host.layout().vms()).size(), 1U);
  EXPECT_EQ(host.not_converged(), "");
}

TEST_F(Upgrade, TheSupervisorGoesAlongInPlace) {
  EXPECT_EQ(running("dstackup"), first);
  const auto pid = supervisor();
  ASSERT_GT(pid, 0);
  const auto directory = others();
  const auto up = dstackup({"upgrade", "--from", directory.string()});
  ASSERT_EQ(up.exit_code, 0) << up.err;
  const auto second = store.current().value_or("");
  EXPECT_NE(second, first);
  EXPECT_EQ(running("dstackup"), second);
  EXPECT_EQ(supervisor(), pid) << "the process stays, with its children and its lock";
  const auto vmm_log = host.layout().logs() / "dstack-vmm.log";
  EXPECT_GT(fs::file_size(vmm_log), 0U);
  const auto size = fs::file_size(vmm_log);
  ASSERT_EQ(dstackup({"rollback"}).exit_code, 0);
  EXPECT_EQ(running("dstackup"), first);
  EXPECT_EQ(running("dstack-vmm"), first);
  EXPECT_EQ(supervisor(), pid);
  EXPECT_GT(fs::file_size(vmm_log), size) << "logs do not go on";
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(Upgrade, ASupervisorKilledOnTheWayIsMendedByInstall) {
  const auto directory = others();
  for (const auto delay : {0, 50, 100, 150, 200, 300, 450, 700}) {
    SCOPED_TRACE(delay);
    const auto old = supervisor();
    ASSERT_GT(old, 0);
    const auto up = base::spawn({.argv = {(test::sandbox_programs() / "dstackup").string(), "upgrade",
                                          "--from", directory.string(), "--json"}});
    ASSERT_TRUE(up);
    ::usleep(static_cast<useconds_t>(delay) * 1000);
    ::kill(old, SIGKILL);
    ::waitpid(*up, nullptr, 0);
    const auto installed = host.run(host.install());
    EXPECT_EQ(installed.exit_code, 0) << installed.err;
    EXPECT_EQ(running("dstackup"), store.current());
    EXPECT_EQ(running("dstack-vmm"), store.current());
    EXPECT_EQ(running("dstack-auth"), store.current());
    EXPECT_EQ(host.not_converged(), "");
    ASSERT_EQ(dstackup({"upgrade", "--from", test::sandbox_programs().string()}).exit_code, 0);
  }
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(Upgrade, TheArchiveOfDevDistThereAndBack) {
  const auto archive = packed();
  ASSERT_EQ(archive.filename(), "dstack-9.9.9.tar.gz");
  const auto up = dstackup({"upgrade", "--from", archive.string()});
  ASSERT_EQ(up.exit_code, 0) << up.err;
  const auto second = store.current().value_or("");
  EXPECT_NE(second, first);
  for (const auto* name : {"dstackup", "dstack-vmm", "dstack-auth"}) {
    EXPECT_EQ(running(name), second) << name;
  }
  EXPECT_TRUE(fs::exists(host.layout().bin / "dstack"));
  EXPECT_EQ(host.not_converged(), "");
  // The same archive again, then back.
  EXPECT_EQ(dstackup({"upgrade", "--from", archive.string()}).out,
            "nothing to do, these programs run already\n");
  ASSERT_EQ(dstackup({"rollback"}).exit_code, 0);
  EXPECT_EQ(running("dstack-vmm"), first);
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(Upgrade, AnArchiveThatIsNotWhatItsSumsSayIsRefused) {
  const auto archive = packed();
  const fs::path unpacked = "/srv/programs/unpacked";
  const fs::path bad = "/srv/programs/bad.tar.gz";
  const auto program = unpacked / "dstack-9.9.9/dstack-vmm";
  const auto sums = unpacked / "dstack-9.9.9/sha256sum.txt";
  const std::vector<std::pair<const char*, std::function<void()>>> damages = {
      {"has another sum for dstack-vmm", [&] { std::ofstream(program, std::ios::app) << "x"; }},
      {"does not list dstack",
       [&] {
         const auto text = *base::read_file(sums);
         std::ofstream(sums) << text.substr(text.find("dstack-vmm") - 66);
       }},
      {"sha256sum.txt", [&] { std::ofstream(sums) << "nonsense\n"; }},
      {"dstack-vmm", [&] { fs::remove(program); }},
  };
  for (const auto& [reason, damage] : damages) {
    SCOPED_TRACE(reason);
    fs::remove_all(unpacked);
    fs::create_directories(unpacked);
    ASSERT_TRUE(base::run_checked({.argv = {"tar", "-C", unpacked.string(), "-xzf", archive.string()}}));
    damage();
    ASSERT_TRUE(
        base::run_checked({.argv = {"tar", "-C", unpacked.string(), "-czf", bad.string(), "dstack-9.9.9"}}));
    const auto up = dstackup({"upgrade", "--from", bad.string()});
    EXPECT_EQ(up.exit_code, 1);
    EXPECT_THAT(up.err, HasSubstr(reason));
  }
  fs::copy_file(archive, bad, fs::copy_options::overwrite_existing);
  fs::resize_file(bad, fs::file_size(bad) / 2);
  EXPECT_EQ(dstackup({"upgrade", "--from", bad.string()}).exit_code, 1);
  EXPECT_EQ(store.current(), first);
  EXPECT_EQ(running("dstack-vmm"), first);
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(host.take_away(), "");
}

TEST_F(Upgrade, ProgramsThatAreNotWellAreTakenBack) {
  const auto directory = others();
  spoil(directory / "dstack-vmm", "echo 'I am broken' >&2; exit 3\n");
  const auto up = dstackup({"upgrade", "--from", directory.string()});
  EXPECT_EQ(up.exit_code, 1);
  EXPECT_THAT(up.err, HasSubstr("DS1655"));
  EXPECT_THAT(up.err, HasSubstr("those of before run again"));
  EXPECT_EQ(running("dstack-vmm"), first);
  EXPECT_EQ(running("dstack-auth"), first);
  EXPECT_EQ(store.current(), first);
  EXPECT_FALSE(fs::exists(host.layout().pending_upgrade()));
  EXPECT_EQ(host.not_converged(), "");
  EXPECT_EQ(dstackup({"rollback"}).exit_code, 1);  // nothing to go back to
}

TEST_F(Upgrade, ProgramsThatDoNotRunHereAreNotEvenTried) {
  const auto directory = others();
  spoil(directory / "dstack-vmm", "");
  std::ofstream(directory / "dstack-auth") << "\x7f"
                                              "ELF of another kind";
  const auto up = dstackup({"upgrade", "--from", directory.string()});
  EXPECT_EQ(up.exit_code, 1);
  EXPECT_THAT(up.err, HasSubstr("DS1654"));
  EXPECT_EQ(store.current(), first);
}

TEST_F(Upgrade, ARollbackOfACutOffUpgradeSaysWhatItDid) {
  const auto set = *host::inspect_programs(others());
  // Killed after the switch: the services may run either.
  ASSERT_TRUE(store.add(set));
  ASSERT_TRUE(host::save_pending_upgrade(host.layout().pending_upgrade(), {first, set.id}));
  ASSERT_TRUE(store.set_current(set.id));
  for (const bool upgrade : {true, false}) {
    const auto dry = upgrade ? dstackup({"upgrade", "--from", set.directory.string(), "--dry-run", "--json"})
                             : dstackup({"rollback", "--dry-run", "--json"});
    ASSERT_EQ(dry.exit_code, 0) << dry.err;
    const auto plan = nlohmann::json::parse(dry.out);
    EXPECT_TRUE(plan["changes"].get<bool>()) << dry.out;
    EXPECT_EQ(plan["from"], set.id);
    EXPECT_EQ(plan["to"], upgrade ? set.id : first);
  }
  EXPECT_TRUE(fs::exists(host.layout().pending_upgrade()));
  const auto back = dstackup({"rollback", "--json"});
  ASSERT_EQ(back.exit_code, 0) << back.err;
  const auto result = nlohmann::json::parse(back.out);
  EXPECT_TRUE(result["changed"].get<bool>()) << back.out;
  EXPECT_EQ(result["from"], set.id);
  EXPECT_EQ(result["to"], first);
  EXPECT_EQ(running("dstack-vmm"), first);
  EXPECT_EQ(store.current(), first);
  EXPECT_FALSE(fs::exists(host.layout().pending_upgrade()));
  EXPECT_EQ(host.not_converged(), "");
}

TEST_F(Upgrade, ProgramsChosenWithNoStartAreTheOnesThatTheNextInstallRuns) {
  const auto set = *host::inspect_programs(others());
  const auto configured = host.run(host.install({"--programs-from", set.directory.string(), "--no-start"}));
  ASSERT_EQ(configured.exit_code, 0) << configured.err;
  EXPECT_EQ(running("dstack-vmm"), first);
  const auto installed = host.run(host.install());
  ASSERT_EQ(installed.exit_code, 0) << installed.err;
  EXPECT_EQ(running("dstack-vmm"), set.id) << installed.out << installed.err;
  EXPECT_EQ(running("dstack-auth"), set.id);
  EXPECT_EQ(store.current(), set.id);
  EXPECT_EQ(store.previous(), first);
  EXPECT_EQ(host.not_converged(), "");
}

// It said "nothing to do", though the programs of before still ran.
TEST_F(Upgrade, AfterAnInstallThatStartedNothingAnUpgradeToItsProgramsSwitchesToThem) {
  const auto set = *host::inspect_programs(others());
  const auto configured = host.run(host.install({"--programs-from", set.directory.string(), "--no-start"}));
  ASSERT_EQ(configured.exit_code, 0) << configured.err;
  ASSERT_EQ(running("dstack-vmm"), first);
  const auto dry = dstackup({"upgrade", "--from", set.directory.string(), "--dry-run", "--json"});
  const auto plan = nlohmann::json::parse(dry.out);
  EXPECT_TRUE(plan["changes"].get<bool>());
  EXPECT_EQ(plan["from"], first);
  const auto installing = host.run(host.install({"--dry-run"}));
  EXPECT_THAT(installing.out, HasSubstr("[restart]"));
  const auto up = dstackup({"upgrade", "--from", set.directory.string(), "--json"});
  ASSERT_EQ(up.exit_code, 0) << up.err;
  const auto result = nlohmann::json::parse(up.out);
  EXPECT_TRUE(result["changed"].get<bool>());
  EXPECT_EQ(result["from"], first);
  EXPECT_EQ(running("dstack-vmm"), set.id);
  EXPECT_EQ(running("dstack-auth"), set.id);
  EXPECT_EQ(dstackup({"upgrade", "--from", set.directory.string()}).out,
            "nothing to do, these programs run already\n");
  EXPECT_EQ(host.not_converged(), "");
  ASSERT_EQ(dstackup({"rollback"}).exit_code, 0);
  EXPECT_EQ(running("dstack-vmm"), first);
}

TEST_F(Upgrade, TheRecordHasTheVersionOfTheProgramsNotOfDstackup) {
  const auto recorded = [&] { return host::require_state(host.layout().state_file())->version; };
  EXPECT_EQ(recorded(), DSTACK_VERSION);
  const auto directory = others();
  for (const auto* name : k_programs) {
    const auto real = (test::sandbox_programs() / name).string();
    fs::remove(directory / name);
    std::ofstream(directory / name) << "#!/bin/sh\ncase $1 in --version) echo 9.9.9; exit 0;; esac\nexec "
                                    << real << " \"$@\"\n";
    fs::permissions(directory / name, static_cast<fs::perms>(0755));
  }
  const auto up = dstackup({"upgrade", "--from", directory.string()});
  ASSERT_EQ(up.exit_code, 0) << up.err;
  EXPECT_EQ(recorded(), "9.9.9");
  const auto again = host.run(host.install());
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(recorded(), "9.9.9") << "install keeps the programs";
  ASSERT_EQ(dstackup({"rollback"}).exit_code, 0);
  EXPECT_EQ(recorded(), DSTACK_VERSION);
  const auto changed = host.run(host.install({"--programs-from", directory.string()}));
  ASSERT_EQ(changed.exit_code, 0) << changed.err;
  EXPECT_EQ(recorded(), "9.9.9");
}

TEST_F(Upgrade, KilledAtSomePointTheNextOneEndsTheSame) {
  const auto directory = others();
  for (const auto delay : {30, 150, 300, 600, 1200, 2000}) {
    const auto child = ::fork();
    if (child == 0) {
      const auto program = (test::sandbox_programs() / "dstackup").string();
      ::execl(program.c_str(), "dstackup", "upgrade", "--from", directory.c_str(), "--json", nullptr);
      ::_exit(1);
    }
    ::usleep(static_cast<useconds_t>(delay) * 1000);
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    // An install goes back to what is known to be well, or finds the upgrade
    // finished.
    const auto installed = host.run(host.install());
    EXPECT_EQ(installed.exit_code, 0) << delay << installed.err;
    EXPECT_EQ(running("dstack-vmm"), store.current()) << delay;
    EXPECT_EQ(running("dstack-auth"), store.current()) << delay;
    EXPECT_EQ(host.not_converged(), "") << delay;
    const auto up = dstackup({"upgrade", "--from", directory.string()});
    EXPECT_EQ(up.exit_code, 0) << delay << up.err;
    EXPECT_EQ(running("dstack-vmm"), host::inspect_programs(directory)->id);
    ASSERT_EQ(dstackup({"upgrade", "--from", test::sandbox_programs().string()}).exit_code, 0);
  }
  EXPECT_EQ(host.take_away(), "");
}

int main(int argc, char** argv) {
  testing::InitGoogleMock(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) {
    return RUN_ALL_TESTS();
  }
  g_pack_script = base::read_file(DSTACK_SOURCE_DIR "/packaging/pack-programs").value_or("exit 1");
  return test::run_in_sandbox(DSTACK_PROGRAMS_DIR, [] { return RUN_ALL_TESTS(); });
}
