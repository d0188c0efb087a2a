// Services and transient units under a real systemd. Runs inside the machine that boot.sh boots.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/fs.h"
#include "base/process.h"
#include "e2e/systemd/tiny_service.h"
#include "host/systemd_manager.h"
#include "host/transient_unit.h"
#include "vmm/passed_files.h"
#include "vmm/systemd_launcher.h"

namespace fs = std::filesystem;
using namespace dstack;
using host::ServiceState;
using std::chrono::milliseconds;
using testing::HasSubstr;

namespace {

const fs::path k_units = "/etc/systemd/system";

std::string program() {
  return fs::read_symlink("/proc/self/exe").string();
}

host::ServiceSpec service(const std::string& name, const std::string& mode, const std::string& file = {}) {
  host::ServiceSpec spec;
  spec.name = name;
  spec.description = "test service";
  spec.argv = {program(), "--service", mode};
  if (!file.empty()) {
    spec.argv.push_back(file);
  }
  spec.start_timeout = milliseconds(10'000);
  spec.stop_timeout = milliseconds(1'000);
  spec.restart_delay = milliseconds(100);
  return spec;
}

template <class Condition>
bool eventually(Condition condition) {
  for (int i = 0; i < 100; ++i) {
    if (condition()) {
      return true;
    }
    std::this_thread::sleep_for(milliseconds(50));
  }
  return false;
}

// Processes of a unit's cgroup.
std::string members(const std::string& slice, const std::string& unit) {
  const auto text =
      base::read_file(fs::path("/sys/fs/cgroup") / slice / (unit + ".service") / "cgroup.procs");
  return text ? *text : "";
}

void systemctl(std::vector<std::string> words) {
  base::Command command;
  command.argv = std::move(words);
  command.argv.insert(command.argv.begin(), "systemctl");
  const auto done = base::run_checked(command);
  EXPECT_TRUE(done) << done.error().what();
}

class Systemd : public testing::Test {
 protected:
  void SetUp() override {
    if (std::getenv("DSTACK_MACHINE") == nullptr || !host::systemd_is_running()) {
      GTEST_SKIP() << "only in the machine of boot.sh";
    }
    m_manager = host::make_systemd_manager(host::SystemdOptions{});
  }
  void TearDown() override {
    for (const auto& name : m_names) {
      const auto removed = m_manager->remove(name);
      EXPECT_TRUE(removed) << removed.error().what();
      EXPECT_FALSE(fs::exists(fs::symlink_status(k_units / (name + ".service"))));
      EXPECT_FALSE(fs::exists(fs::symlink_status(k_units / "multi-user.target.wants" / (name + ".service"))));
      EXPECT_EQ(m_manager->status(name)->state, ServiceState::unknown);
      EXPECT_EQ(members("system.slice", name), "");
    }
  }

  base::Result<> start(const host::ServiceSpec& spec) {
    m_names.push_back(spec.name);
    return m_manager->start(spec);
  }
  host::ServiceStatus status(const std::string& name) {
    const auto got = m_manager->status(name);
    EXPECT_TRUE(got) << got.error().what();
    return got ? *got : host::ServiceStatus{};
  }
  static bool is_enabled(const std::string& name) {
    return fs::is_symlink(k_units / "multi-user.target.wants" / (name + ".service"));
  }

  std::unique_ptr<host::ServiceManager> m_manager;
  std::vector<std::string> m_names;
};

}  // namespace

TEST_F(Systemd, StartsAServiceWhenItIsReadyAndEnablesIt) {
  const auto spec = service("dstack-t-ready", "ready");
  const auto started = start(spec);
  ASSERT_TRUE(started) << started.error().what();
  const auto is = status(spec.name);
  EXPECT_EQ(is.state, ServiceState::active);
  EXPECT_GT(is.pid, 1);
  EXPECT_EQ(is.text, "serving");
  EXPECT_EQ(is.result, "");
  EXPECT_GT(is.since_unix, 1'600'000'000);
  EXPECT_TRUE(is_enabled(spec.name));
}

TEST_F(Systemd, LeavesTheSameDefinitionAloneAndRestartsAnother) {
  auto spec = service("dstack-t-same", "ready");
  ASSERT_TRUE(start(spec));
  const auto first = status(spec.name).pid;
  ASSERT_TRUE(m_manager->start(spec));
  EXPECT_EQ(status(spec.name).pid, first);
  spec.environment = {"CHANGED=1"};
  ASSERT_TRUE(m_manager->start(spec));
  const auto second = status(spec.name).pid;
  EXPECT_NE(second, first);
  ASSERT_TRUE(m_manager->restart(spec));
  EXPECT_NE(status(spec.name).pid, second);
}

TEST_F(Systemd, RestartsAServiceWhoseFileWasWrittenByARunThatDidNotGetToTheRestart) {
  auto spec = service("dstack-t-stale", "ready");
  ASSERT_TRUE(start(spec));
  const auto first = status(spec.name).pid;
  const auto path = k_units / "dstack-t-stale.service";
  std::this_thread::sleep_for(milliseconds(20));
  ASSERT_TRUE(base::write_file_atomic(path, *base::read_file(path)));
  ASSERT_TRUE(m_manager->start(spec));
  const auto second = status(spec.name).pid;
  EXPECT_NE(second, first);
  ASSERT_TRUE(m_manager->start(spec));
  EXPECT_EQ(status(spec.name).pid, second);
}

TEST_F(Systemd, AFailureCarriesTheServicesOwnReasonAndLog) {
  const auto spec = service("dstack-t-fails", "fails");
  const auto started = start(spec);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, base::Code::service_failed);
  const auto what = started.error().what();
  EXPECT_THAT(what, HasSubstr("the service dstack-t-fails did not start"));
  EXPECT_THAT(what, HasSubstr("bind 127.0.0.1:8001 failed"));
  EXPECT_THAT(what, HasSubstr("exit code 3"));
  EXPECT_THAT(what, HasSubstr("Address already in use"));
  EXPECT_THAT(what, HasSubstr("another instance is running"));
  EXPECT_THAT(started.error().fix, HasSubstr("journalctl -u dstack-t-fails.service"));
  // Not tried again behind the user's back, and not with the next boot.
  std::this_thread::sleep_for(milliseconds(300));
  const auto is = status(spec.name);
  EXPECT_TRUE(is.state == ServiceState::failed || is.state == ServiceState::stopped);
  EXPECT_EQ(is.pid, 0);
  EXPECT_FALSE(is_enabled(spec.name));
}

TEST_F(Systemd, AServiceThatIsNeverReadyIsStopped) {
  auto spec = service("dstack-t-silent", "silent");
  spec.start_timeout = milliseconds(700);
  const auto before = std::chrono::steady_clock::now();
  const auto started = start(spec);
  ASSERT_FALSE(started);
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(10));
  EXPECT_THAT(started.error().what(), HasSubstr("not ready"));
  EXPECT_EQ(members("system.slice", spec.name), "");
}

TEST_F(Systemd, AMissingProgramIsSaid) {
  auto spec = service("dstack-t-missing", "ready");
  spec.argv.front() = "/nonexistent/program";
  const auto started = start(spec);
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().what(), HasSubstr("its program cannot be executed"));
}

TEST_F(Systemd, AMaskedUnitIsLeftMasked) {
  const auto path = k_units / "dstack-t-masked.service";
  fs::create_symlink("/dev/null", path);
  const auto started = m_manager->start(service("dstack-t-masked", "ready"));
  ASSERT_FALSE(started);
  EXPECT_THAT(started.error().what(), HasSubstr("masked"));
  EXPECT_THAT(started.error().fix, HasSubstr("systemctl unmask dstack-t-masked.service"));
  EXPECT_EQ(fs::read_symlink(path), "/dev/null");
  fs::remove(path);
}

TEST_F(Systemd, SomebodyElsesUnitIsNotTouched) {
  const auto path = k_units / "dstack-t-foreign.service";
  const std::string text = "[Service]\nExecStart=/bin/sleep 1000\n";
  std::ofstream(path) << text;
  systemctl({"daemon-reload"});
  systemctl({"start", "dstack-t-foreign"});
  EXPECT_FALSE(m_manager->start(service("dstack-t-foreign", "ready")));
  EXPECT_FALSE(m_manager->remove("dstack-t-foreign"));
  EXPECT_EQ(*base::read_file(path), text);
  EXPECT_EQ(status("dstack-t-foreign").state, ServiceState::active);
  systemctl({"stop", "dstack-t-foreign"});
  fs::remove(path);
}

TEST_F(Systemd, AKilledServiceComesBack) {
  const auto spec = service("dstack-t-killed", "ready");
  ASSERT_TRUE(start(spec));
  const auto first = status(spec.name).pid;
  ASSERT_EQ(::kill(first, SIGKILL), 0);
  EXPECT_TRUE(eventually([&] {
    const auto is = status(spec.name);
    return is.state == ServiceState::active && is.pid != first && is.restarts == 1;
  }));
}

TEST_F(Systemd, AServiceThatKeepsEndingIsGivenUp) {
  auto spec = service("dstack-t-crashes", "crashes");
  spec.start_limit = 3;
  static_cast<void>(start(spec));  // ready for a moment
  EXPECT_TRUE(eventually([&] { return status(spec.name).state == ServiceState::failed; }));
  EXPECT_THAT(status(spec.name).result, HasSubstr("exit code 7"));
  // And can be started again after that: the limit counts from then.
  EXPECT_TRUE(m_manager->restart(spec)) << "the limit of starts was not reset";
}

TEST_F(Systemd, StopLeavesNoProcess) {
  const auto spec = service("dstack-t-stubborn", "stubborn");
  ASSERT_TRUE(start(spec));
  ASSERT_TRUE(eventually([&] {
    const auto text = members("system.slice", spec.name);
    return std::count(text.begin(), text.end(), '\n') == 2;
  }));
  const auto stopped = m_manager->stop(spec.name);
  ASSERT_TRUE(stopped) << stopped.error().what();
  EXPECT_EQ(members("system.slice", spec.name), "");
  EXPECT_TRUE(m_manager->stop(spec.name)) << "stopping twice is no error";
  EXPECT_EQ(status(spec.name).pid, 0);
}

TEST_F(Systemd, UnknownServicesAndOddNames) {
  EXPECT_EQ(status("dstack-t-nobody").state, ServiceState::unknown);
  EXPECT_TRUE(m_manager->stop("dstack-t-nobody"));
  const auto removed = m_manager->remove("dstack-t-nobody");
  EXPECT_TRUE(removed) << removed.error().what();
  for (const std::string name : {"", "a b", "../x", "a/b", "x\ny", "-f", ".x", "a%n", "a@b"}) {
    EXPECT_EQ(m_manager->start(service(name, "ready")).error().code, base::Code::invalid_argument) << name;
    EXPECT_FALSE(m_manager->remove(name)) << name;
  }
}

TEST_F(Systemd, OddCharactersArriveAsTheyAre) {
  const fs::path directory = "/opt/o dd %n $HOME 'x' \"y\" \\b \xc3\xa4";
  fs::create_directories(directory);
  // systemd takes no quotes and backslashes in the path of a program; elsewhere they are as good as anything.
  const fs::path copy = "/opt/pro gram %h $HOME \xc3\xa4";
  fs::copy_file(program(), copy, fs::copy_options::overwrite_existing);
  const auto file = (directory / "seen").string();
  auto spec = service("dstack-t-odd", "ready", file);
  const std::vector<std::string> odd = {"%n %% %", "$HOME ${HOME} $$", "a\nb\tc", "\"'\\ ;", ";", "\x01", "",
                                        "-x"};
  spec.argv.front() = copy;
  spec.argv.insert(spec.argv.end(), odd.begin(), odd.end());
  spec.directory = directory;
  spec.environment = {"ODD=%i $PATH \"\\"};
  const auto started = start(spec);
  ASSERT_TRUE(started) << started.error().what();
  const auto seen = base::read_file(file);
  ASSERT_TRUE(seen);
  for (const auto& word : odd) {
    EXPECT_THAT(*seen, HasSubstr("arg=" + word + "\n"));
  }
  EXPECT_THAT(*seen, HasSubstr("cwd=" + directory.string() + "\n"));
  EXPECT_THAT(*seen, HasSubstr("odd=%i $PATH \"\\\n"));
}

TEST_F(Systemd, TheStrictSandboxShowsLiveFilesAndNothingElse) {
  fs::create_directories("/usr/local/libexec/dstack-t");
  fs::copy_file(program(), "/usr/local/libexec/dstack-t/service", fs::copy_options::overwrite_existing);
  // Homes and temporary directories are hidden but for what is named.
  for (const fs::path home : {"/root/live %s", "/srv/live", "/tmp/live"}) {
    fs::create_directories(home);
    const auto file = home / "policy";
    ASSERT_TRUE(base::write_file_atomic(file, "one"));
    auto spec = service("dstack-t-strict", "reads", file);
    spec.argv.front() = "/usr/local/libexec/dstack-t/service";
    spec.sandbox = host::Sandbox::strict;
    spec.directory = home;
    spec.readable_paths = {home};
    const auto started = start(spec);
    m_names.pop_back();
    ASSERT_TRUE(started) << started.error().what();
    EXPECT_TRUE(eventually([&] { return status(spec.name).text == "read: one"; })) << status(spec.name).text;
    ASSERT_TRUE(base::write_file_atomic(file, "two"));
    EXPECT_TRUE(eventually([&] { return status(spec.name).text == "read: two"; })) << status(spec.name).text;
    const auto proc = base::read_file("/proc/" + std::to_string(status(spec.name).pid) + "/status");
    ASSERT_TRUE(proc);
    EXPECT_THAT(*proc, HasSubstr("CapEff:\t0000000000000000"));
    EXPECT_THAT(*proc, HasSubstr("NoNewPrivs:\t1"));
    EXPECT_THAT(*proc, HasSubstr("Seccomp:\t2"));
    EXPECT_THAT(*proc, testing::Not(HasSubstr("Uid:\t0\t")));
  }
  m_names.push_back("dstack-t-strict");
}

TEST_F(Systemd, TheLauncherSandboxWritesBelowItsPathsOnly) {
  const fs::path state = "/root/state";
  fs::create_directories(state);
  auto spec = service("dstack-t-launcher", "ready", state / "seen");
  spec.sandbox = host::Sandbox::launcher;
  spec.directory = state;
  spec.writable_paths = {state, "/run/dstack-t", "/nonexistent/tolerated"};
  const auto started = start(spec);
  ASSERT_TRUE(started) << started.error().what();
  const auto seen = base::read_file(state / "seen");
  ASSERT_TRUE(seen) << seen.error().what();
  EXPECT_THAT(*seen, HasSubstr("CapEff:\t0000000000000000"));
  EXPECT_TRUE(fs::is_directory("/run/dstack-t"));

  auto other = service("dstack-t-outside", "ready", "/srv/not-allowed");
  other.sandbox = host::Sandbox::launcher;
  ASSERT_TRUE(start(other));
  EXPECT_FALSE(fs::exists("/srv/not-allowed"));
}

TEST_F(Systemd, TransientUnitsOutliveTheServiceThatStartedThem) {
  auto spec = service("dstack-t-parent", "launches");
  spec.sandbox = host::Sandbox::launcher;
  const auto started = start(spec);
  ASSERT_TRUE(started) << started.error().what();
  const std::string unit = "dstack-vm-from-service";
  const auto child = host::transient_unit_status(unit);
  ASSERT_TRUE(child && child->alive);
  ASSERT_TRUE(m_manager->restart(spec));
  EXPECT_EQ(host::transient_unit_status(unit)->main_pid, child->main_pid);
  ASSERT_EQ(::kill(status(spec.name).pid, SIGKILL), 0);
  ASSERT_TRUE(eventually([&] { return status(spec.name).restarts == 1; }));
  ASSERT_TRUE(m_manager->stop(spec.name));
  EXPECT_EQ(host::transient_unit_status(unit)->main_pid, child->main_pid);
  // Killed by its pid, as a VMM does it: nothing of the unit is left.
  ASSERT_EQ(::kill(child->main_pid, SIGKILL), 0);
  EXPECT_TRUE(eventually([&] { return host::list_transient_units(unit)->empty(); }));
}

TEST_F(Systemd, ATransientUnitIsStartedOnceAndStoppedWithAllItsProcesses) {
  host::TransientUnit unit;
  unit.name = "dstack-vm-t1";
  unit.description = "a VM that is none";
  fs::create_directories("/root/vm %n $HOME");
  unit.directory = "/root/vm %n $HOME";
  unit.writable_paths = {unit.directory};
  unit.stdout_file = unit.directory + "/out.log";
  unit.stderr_file = unit.directory + "/err.log";
  unit.stop_timeout = milliseconds(1'000);
  unit.argv = {program(), "--service", "stubborn", unit.directory + "/seen", "$HOME %n", "${HOME}", "$$"};
  const auto pid = host::start_transient_unit(unit);
  ASSERT_TRUE(pid) << pid.error().what();
  EXPECT_EQ(::kill(*pid, 0), 0);
  ASSERT_TRUE(eventually([&] {
    const auto text = members("dstack.slice", unit.name);
    return std::count(text.begin(), text.end(), '\n') == 2;
  }));
  const auto seen = base::read_file(unit.directory + "/seen");
  ASSERT_TRUE(seen);
  EXPECT_THAT(*seen, HasSubstr("arg=$HOME %n\narg=${HOME}\narg=$$\n"));
  EXPECT_THAT(*seen, HasSubstr("CapEff:\t0000000000000000"));
  EXPECT_TRUE(fs::exists(unit.stderr_file));

  // systemd reads its own notes of the unit back.
  systemctl({"daemon-reload"});
  base::Command show;
  show.argv = {"systemctl", "show", "--property", "LoadState,ActiveState,KillMode", unit.name + ".service"};
  EXPECT_EQ(base::run(show)->out, "KillMode=control-group\nLoadState=loaded\nActiveState=active\n");

  EXPECT_EQ(host::start_transient_unit(unit).error().code, base::Code::locked);
  EXPECT_EQ(*host::list_transient_units("dstack-vm-*"), std::vector<std::string>{unit.name});
  const auto stopped = host::stop_transient_unit(unit.name);
  ASSERT_TRUE(stopped) << stopped.error().what();
  // systemd gives up on a killed process after the same time again, and this machine may be busy.
  EXPECT_TRUE(eventually([&] { return ::kill(*pid, 0) != 0; }));
  EXPECT_EQ(members("dstack.slice", unit.name), "");
  EXPECT_TRUE(host::stop_transient_unit(unit.name)) << "stopping twice is no error";
  EXPECT_FALSE(host::transient_unit_status(unit.name)->alive);
}

TEST_F(Systemd, ATransientUnitWhoseProgramIsMissingFails) {
  host::TransientUnit unit;
  unit.name = "dstack-vm-t2";
  unit.description = "missing";
  unit.argv = {"/nonexistent/qemu"};
  const auto pid = host::start_transient_unit(unit);
  ASSERT_FALSE(pid);
  EXPECT_EQ(pid.error().code, base::Code::service_failed);
  EXPECT_THAT(pid.error().what(), HasSubstr("203"));
  EXPECT_TRUE(eventually([&] { return host::list_transient_units(unit.name)->empty(); }));
}

TEST_F(Systemd, TheLauncherOfVmsStartsFindsAndRefusesTwice) {
  fs::create_directories("/srv/vms/abc");
  fs::create_directories("/srv/vms/other");
  fs::create_directories("/srv/config");
  const base::WriteOptions secret{.mode = 0600};
  ASSERT_TRUE(base::write_file_atomic("/srv/vms/abc/hda.img", "its disk", secret));
  ASSERT_TRUE(base::write_file_atomic("/srv/vms/other/shared.img", "secret", secret));
  ASSERT_TRUE(base::write_file_atomic("/srv/config/vmm-auth-token", "secret", secret));
  vmm::ProcessSpec spec;
  spec.vm_id = "abc";
  spec.argv = {program(),
               "--service",
               "inspects",
               "/srv/vms/abc/hda.img",
               "/srv/vms/other/shared.img",
               "/srv/config/vmm-auth-token",
               "/proc/1/status",
               "/usr/bin/env"};
  spec.directory = "/srv/vms/abc";
  spec.stdout_log = "/srv/vms/abc/out.log";
  spec.stderr_log = "/srv/vms/abc/err.log";
  spec.files = {{"/srv/vms/abc/hda.img", vmm::PassedFile::Access::write, false, 100}};
  spec.limits = {.memory_bytes = 1U << 30U, .tasks = 100, .cpu_percent = 200};
  // Its own modes are what keeps others out, not a closed directory above.
  fs::permissions("/srv/vms/abc", fs::perms(0755));
  const auto launcher = vmm::make_systemd_launcher();
  EXPECT_FALSE(launcher->find("abc"));
  const auto pid = launcher->launch(spec);
  ASSERT_TRUE(pid) << pid.error().what();
  EXPECT_EQ(launcher->find("abc"), *pid);
  EXPECT_EQ(launcher->launch(spec).error().code, base::Code::locked);

  ASSERT_TRUE(eventually([] {
    return base::read_file("/srv/vms/abc/out.log").value_or("").find("/usr/bin/env: ") != std::string::npos;
  })) << base::read_file("/srv/vms/abc/out.log").value_or("")
      << base::read_file("/srv/vms/abc/err.log").value_or("");
  const auto seen = *base::read_file("/srv/vms/abc/out.log");
  for (const auto* line :
       {"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n",
        "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "given=its disk\n", "/srv/vms/abc/hda.img: Permission denied\n",
        "/srv/vms/other/shared.img: Permission denied\n", "/srv/config/vmm-auth-token: Permission denied\n",
        "/proc/1/status: No such file or directory\n", "/usr/bin/env: readable\n"}) {
    EXPECT_THAT(seen, HasSubstr(line));
  }
  struct stat info = {};
  ASSERT_EQ(::stat(("/proc/" + std::to_string(*pid)).c_str(), &info), 0);
  EXPECT_GE(info.st_uid, 61184U);
  base::Command show;
  show.argv = {"systemctl", "show", "--property", "MemoryMax,TasksMax,CPUQuotaPerSecUSec,DynamicUser",
               "dstack-vm-abc.service"};
  EXPECT_THAT(base::run(show)->out,
              testing::AllOf(HasSubstr("MemoryMax=1073741824\n"), HasSubstr("TasksMax=100\n"),
                             HasSubstr("CPUQuotaPerSecUSec=2s\n"), HasSubstr("DynamicUser=yes\n")));
  // A second VM is another user.
  auto second = spec;
  second.vm_id = "def";
  const auto other_pid = launcher->launch(second);
  ASSERT_TRUE(other_pid) << other_pid.error().what();
  struct stat other_info = {};
  ASSERT_EQ(::stat(("/proc/" + std::to_string(*other_pid)).c_str(), &other_info), 0);
  EXPECT_NE(other_info.st_uid, info.st_uid);
  ASSERT_TRUE(launcher->kill("def"));
  EXPECT_TRUE(eventually([&] { return ::kill(*other_pid, 0) != 0; }));
  EXPECT_TRUE(eventually([&] { return !launcher->find("def"); }));
  EXPECT_TRUE(launcher->kill("def")) << "killing twice is no error";

  // What a destroy without a VMM does: VMs of this installation only.
  host::SystemdOptions other;
  other.vms = "/srv/other";
  ASSERT_TRUE(host::make_systemd_manager(other)->shut_down());
  EXPECT_TRUE(launcher->find("abc"));
  host::SystemdOptions ours;
  ours.vms = "/srv/vms";
  const auto down = host::make_systemd_manager(ours)->shut_down();
  ASSERT_TRUE(down) << down.error().what();
  EXPECT_FALSE(launcher->find("abc"));
  EXPECT_FALSE(fs::exists("/sys/fs/cgroup/dstack.slice"));
}

TEST_F(Systemd, TheEnvironmentDoesNotChooseTheBus) {
  ::setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent", 1);
  EXPECT_EQ(status("dstack-t-nobody").state, ServiceState::unknown);
  ::unsetenv("DBUS_SYSTEM_BUS_ADDRESS");
}

TEST_F(Systemd, WorksWithoutAMessageBus) {
  host::SystemdOptions options;
  options.address = "unix:path=/run/systemd/private";
  const auto manager = host::make_systemd_manager(options);
  const auto spec = service("dstack-t-private", "ready");
  const auto started = manager->start(spec);
  ASSERT_TRUE(started) << started.error().what();
  EXPECT_EQ(manager->status(spec.name)->state, ServiceState::active);
  EXPECT_TRUE(manager->remove(spec.name));
}

TEST_F(Systemd, TheLogOfAService) {
  const auto spec = service("dstack-t-log", "fails");
  static_cast<void>(start(spec));
  const auto lines = m_manager->logs(spec.name, 100);
  ASSERT_TRUE(lines) << lines.error().what();
  EXPECT_THAT(*lines, testing::Contains("first line of the log"));
  EXPECT_EQ(m_manager->logs(spec.name, 2)->size(), 2U);
}

int main(int argc, char** argv) {
  if (argc > 1 && argv[1] == vmm::k_run_vm) {
    return vmm::run_handed_over(argc - 2, argv + 2);
  }
  if (argc > 2 && std::string_view(argv[1]) == "--service") {
    return e2e::tiny_service({argv + 2, argv + argc});
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
