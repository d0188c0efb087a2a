#include "vmm/vm_process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <condition_variable>
#include <mutex>

#include "base/fs.h"
#include "base/process.h"
#include "host/cgroup.h"
#include "unit/temp_dir.h"
#include "vmm/vm_user.h"

namespace dstack::vmm {
namespace {

class Exits {
 public:
  ExitHandler handler() {
    return [this](const std::string& id, pid_t pid, std::optional<int> code) {
      const std::lock_guard lock(m_mutex);
      m_id = id;
      m_pid = pid;
      m_code = code;
      ++m_count;
      m_changed.notify_all();
    };
  }
  bool wait(int count) {
    std::unique_lock lock(m_mutex);
    return m_changed.wait_for(lock, std::chrono::seconds(10), [&] { return m_count >= count; });
  }
  std::string m_id;
  pid_t m_pid = 0;
  std::optional<int> m_code;

 private:
  std::mutex m_mutex;
  std::condition_variable m_changed;
  int m_count = 0;
};

ProcessSpec sample(const test::TempDir& lab, std::vector<std::string> argv) {
  ProcessSpec spec;
  spec.vm_id = "vm-1";
  spec.argv = std::move(argv);
  spec.directory = lab.path();
  spec.stdout_log = lab / "stdout.log";
  spec.stderr_log = lab / "stderr.log";
  spec.lock_file = lab / "qemu.lock";
  return spec;
}

TEST(VmProcesses, StartKillAndExitCode) {
  test::TempDir lab;
  Exits exits;
  const auto processes = make_vm_processes({});
  processes->on_exit(exits.handler());
  auto record = processes->start(sample(lab, {"/bin/sleep", "60"}));
  ASSERT_TRUE(record) << record.error().what();
  EXPECT_EQ(::getsid(record->pid), record->pid) << "a session of its own";
  EXPECT_EQ(base::process_start_time(record->pid), record->start_time);
  const auto again = processes->start(sample(lab, {"/bin/sleep", "60"}));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code, base::Code::locked) << "D6: no double launch";
  processes->kill("vm-1");
  ASSERT_TRUE(exits.wait(1));
  EXPECT_EQ(exits.m_id, "vm-1");
  EXPECT_EQ(exits.m_pid, record->pid);
  EXPECT_EQ(exits.m_code, 137);
  processes->kill("vm-1");

  record = processes->start(sample(lab, {"/bin/ls", "/nonexistent"}));
  ASSERT_TRUE(record);
  ASSERT_TRUE(exits.wait(2));
  EXPECT_EQ(exits.m_code, 2);
  EXPECT_NE(base::read_file(lab / "stderr.log").value_or("").find("nonexistent"), std::string::npos);
}

TEST(VmProcesses, AProgramThatIsNotThereIsAnError) {
  test::TempDir lab;
  const auto processes = make_vm_processes({});
  processes->on_exit([](const auto&, pid_t, const auto&) {});
  const auto record = processes->start(sample(lab, {"/nonexistent/qemu"}));
  ASSERT_FALSE(record);
  EXPECT_EQ(record.error().code, base::Code::vm_start);
  EXPECT_NE(record.error().what().find("/nonexistent/qemu"), std::string::npos);
}

TEST(VmProcesses, ProcessesOutliveThisProgramAndAreAdopted) {
  test::TempDir lab;
  auto first = make_vm_processes({});
  first->on_exit([](const auto&, pid_t, const auto&) {});
  const auto record = first->start(sample(lab, {"/bin/sleep", "60"}));
  ASSERT_TRUE(record);
  first.reset();
  ASSERT_EQ(::kill(record->pid, 0), 0);

  Exits exits;
  const auto second = make_vm_processes({});
  second->on_exit(exits.handler());
  auto found = second->find_unrecorded("vm-1", lab / "qemu.lock");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->pid, record->pid);
  EXPECT_EQ(found->start_time, record->start_time);
  EXPECT_FALSE(second->find_unrecorded("vm-1", lab / "other.lock"));

  auto reused = *record;
  reused.start_time += 1;
  EXPECT_FALSE(second->adopt("vm-1", reused)) << "D8: the pid of another process";
  auto rebooted = *record;
  rebooted.boot_id = "another boot";
  EXPECT_FALSE(second->adopt("vm-1", rebooted));
  EXPECT_FALSE(second->adopt("vm-1", ProcessRecord{}));
  ASSERT_TRUE(second->adopt("vm-1", *record));
  second->kill("vm-1");
  ASSERT_TRUE(exits.wait(1));
  EXPECT_EQ(exits.m_pid, record->pid);
  EXPECT_FALSE(exits.m_code) << "not our child: the code is not known";
  ::waitpid(record->pid, nullptr, 0);
}

// What QEMU could do to its host if its guest broke out of it.
TEST(VmProcesses, AVmsUserGetsAtItsOwnFilesOnly) {
  if (!vm_users(/*systemd=*/false).separate) {
    GTEST_SKIP() << "only root can give a process another user";
  }
  test::TempDir lab;
  ASSERT_TRUE(base::write_file_atomic(lab / "own-disk", "my own disk\n", {.mode = 0600}));
  ASSERT_TRUE(base::write_file_atomic(lab / "vmm-auth-token", "secret\n", {.mode = 0600}));
  ASSERT_TRUE(base::make_dirs(lab / "vm/other", 0700));
  ASSERT_TRUE(base::write_file_atomic(lab / "vm/other/shared.img", "secret\n", {.mode = 0600}));
  // So that nothing but the files' own modes keeps it out.
  fs::permissions(lab.path(), fs::perms(0755));
  auto spec = sample(
      lab, {"/bin/cat", "/proc/self/status", (lab / "own-disk").string(), (lab / "vmm-auth-token").string(),
            (lab / "vm/other/shared.img").string(), (lab / "qemu.lock").string(), "/proc/1/environ"});
  spec.files = {{lab / "own-disk", PassedFile::Access::read, false, 100}};
  Exits exits;
  ProcessOptions options;
  options.separate_users = true;
  const auto processes = make_vm_processes(std::move(options));
  processes->on_exit(exits.handler());
  ASSERT_TRUE(processes->start(spec));
  ASSERT_TRUE(exits.wait(1));
  EXPECT_EQ(exits.m_code, 1) << "cat met files that it could not read";
  const auto out = base::read_file(lab / "stdout.log").value_or("");
  const auto err = base::read_file(lab / "stderr.log").value_or("");
  EXPECT_EQ(out.find("secret"), std::string::npos) << out;
  EXPECT_EQ(out.find("my own disk"), std::string::npos) << "a path is not the way to it: " << out;
  for (const auto* file : {"own-disk", "vmm-auth-token", "shared.img", "qemu.lock", "environ"}) {
    EXPECT_NE(err.find(std::string(file) + ": Permission denied"), std::string::npos) << file << ": " << err;
  }
  for (const auto* line : {"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
                           "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Groups:\t \n"}) {
    EXPECT_NE(out.find(line), std::string::npos) << line << " is not in " << out;
  }
  const auto uid = std::stoul(out.substr(out.find("Uid:\t") + 5));
  EXPECT_GE(uid, k_first_vm_uid);
  EXPECT_LE(uid, k_last_vm_uid);

  // Its own disk it has as an open file.
  spec.argv = {"/bin/bash", "-c", "exec /bin/cat <&100"};
  ASSERT_TRUE(processes->start(spec));
  ASSERT_TRUE(exits.wait(2));
  EXPECT_EQ(exits.m_code, 0);
  EXPECT_NE(base::read_file(lab / "stdout.log").value_or("").find("my own disk"), std::string::npos);
}

TEST(VmProcesses, TwoVmsHaveTwoUsers) {
  if (!vm_users(/*systemd=*/false).separate) {
    GTEST_SKIP() << "only root can give a process another user";
  }
  test::TempDir lab;
  test::TempDir other;
  Exits exits;
  ProcessOptions options;
  options.separate_users = true;
  const auto processes = make_vm_processes(std::move(options));
  processes->on_exit(exits.handler());
  auto spec = sample(lab, {"/bin/sleep", "60"});
  const auto one = processes->start(spec);
  spec = sample(other, {"/bin/sleep", "60"});
  spec.vm_id = "vm-2";
  const auto two = processes->start(spec);
  ASSERT_TRUE(one && two);
  struct stat first{};
  struct stat second{};
  ASSERT_EQ(::stat(("/proc/" + std::to_string(one->pid)).c_str(), &first), 0);
  ASSERT_EQ(::stat(("/proc/" + std::to_string(two->pid)).c_str(), &second), 0);
  EXPECT_NE(first.st_uid, 0U);
  EXPECT_NE(first.st_uid, second.st_uid);
  processes->kill("vm-1");
  processes->kill("vm-2");
  EXPECT_TRUE(exits.wait(2));
}

// A VM's process may have started others, and they may have left its session.
TEST(VmProcesses, KillTakesTheWholeCgroupAndRemovesIt) {
  const auto mount = host::find_cgroup2_mount().value();
  if (!mount) {
    GTEST_SKIP() << "no cgroup v2 that can be written";
  }
  test::TempDir lab;
  const host::Cgroup root(*mount + "/" + lab.path().filename().string());
  Exits exits;
  ProcessOptions options;
  options.cgroup_root = root.path();
  const auto processes = make_vm_processes(std::move(options));
  processes->on_exit(exits.handler());
  auto spec = sample(lab, {"/bin/bash", "-c", "setsid sleep 60 & echo ready; wait"});
  spec.limits = {.memory_bytes = 1U << 30U, .tasks = 50, .cpu_percent = 100};
  ASSERT_TRUE(processes->start(spec));
  const host::Cgroup cgroup(root.path() + "/vm-1");
  for (int i = 0; i < 500 && cgroup.pids().size() < 2; ++i) {
    ::usleep(10'000);
  }
  EXPECT_EQ(cgroup.pids().size(), 2U);
  processes->kill("vm-1");
  ASSERT_TRUE(exits.wait(1));
  EXPECT_FALSE(cgroup.exists());
  EXPECT_TRUE(root.remove());
}

TEST(ProcessRecord, RoundTripAndBadOnes) {
  ProcessRecord record;
  record.pid = 42;
  record.start_time = 12'345'678'901ULL;
  record.boot_id = "x-y";
  record.started_at_ms = 1'795'345'662'411;
  record.agent_port = 40'000;
  record.accelerator = "tcg";
  EXPECT_EQ(*parse_process_record(process_record_to_json(record)), record);
  for (const auto* bad : {"", "{}", "[]", "{\"pid\":\"x\"}", "{\"pid\":1,\"start_time\":{}}"}) {
    EXPECT_FALSE(parse_process_record(bad)) << bad;
  }
}

}  // namespace
}  // namespace dstack::vmm
