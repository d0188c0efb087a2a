// The writer of the allow-list under SIGKILL before its system calls, failing system calls, power cuts and
// competition. With DSTACK_FULL_SWEEP set (./dev bench crash) every system call is taken, else those that
// matter.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
#include <sstream>

#include "app/allowlist.h"
#include "base/fd.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "unit/temp_dir.h"

namespace fs = std::filesystem;
using namespace dstack;

namespace {

bool full_sweep() {
  return std::getenv("DSTACK_FULL_SWEEP") != nullptr;
}

// One system call of a run: strace counts occurrences for each name apart.
struct Point {
  std::string name;
  int ordinal = 0;
  std::string line;
};

struct Outcome {
  int exit_code = 0;
  bool injected = false;
  std::string err;
};

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

base::Output run(std::vector<std::string> argv) {
  auto output = base::run({.argv = std::move(argv), .timeout = std::chrono::seconds(60)});
  EXPECT_TRUE(output) << (output ? "" : output.error().what());
  return output ? *output : base::Output{.exit_code = -1};
}

// A list of a few apps, with a key that the project does not know.
std::string old_list() {
  std::string apps;
  for (int i = 1; i <= 40; ++i) {
    apps += base::format(
        "{}\"{:040x}\":{{\"composeHashes\":[\"{:064x}\"],\"devices\":[],\"allowAnyDevice\":true}}",
        i == 1 ? "" : ",", i, i);
  }
  return "{\"osImages\":[\"" + std::string(64, '1') + "\"],\"note\":\"kept\",\"apps\":{" + apps + "}}\n";
}

class Lab {
 public:
  explicit Lab(fs::path directory, bool in_place = false)
      : m_directory(std::move(directory)), m_file(m_directory / "allow.json"), m_in_place(in_place) {}

  const fs::path& file() const { return m_file; }
  const std::string& before() const { return m_before; }
  const std::string& after() const { return m_after; }

  std::vector<std::string> tool() const {
    std::vector<std::string> argv{ALLOWLIST_TOOL, m_file.string(), "1000", "1"};
    if (m_in_place) {
      argv.emplace_back("--in-place");
    }
    return argv;
  }

  void reset() const {
    for (const auto& entry : fs::directory_iterator(m_directory)) {
      if (entry.is_regular_file()) {
        fs::remove(entry.path());
      }
    }
    std::ofstream(m_file, std::ios::binary) << m_before;
    fs::permissions(m_file, fs::perms(0640));
    ::sync();
  }

  // A clean run: its system calls, and what it leaves.
  std::vector<Point> record() {
    reset();
    const fs::path trace = trace_file();
    std::vector<std::string> argv{"strace", "-qq", "-o", trace.string()};
    std::ranges::copy(tool(), std::back_inserter(argv));
    const auto output = run(argv);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    m_after = contents(m_file);
    EXPECT_NE(m_after, m_before);
    std::vector<Point> points;
    std::map<std::string, int> count;
    bool reached = full_sweep();
    std::istringstream lines(contents(trace));
    for (std::string line; std::getline(lines, line);) {
      const auto name = line.substr(0, line.find('('));
      const int ordinal = ++count[name];
      // Before its first look at the file the program is only being loaded.
      reached = reached || (name != "execve" && line.find(m_file.string()) != std::string::npos);
      if (reached && name != "execve" && name != "exit_group" && line.find('(') != std::string::npos) {
        points.push_back({name, ordinal, line.substr(0, 160)});
      }
    }
    return points;
  }

  Outcome inject(const Point& point, const std::string& what) const {
    const fs::path trace = trace_file();
    std::vector<std::string> argv{
        "strace", "-qq",
        "-o",     trace.string(),
        "-e",     "trace=" + point.name,
        "-e",     base::format("inject={}:{}:when={}", point.name, what, point.ordinal)};
    std::ranges::copy(tool(), std::back_inserter(argv));
    const auto output = run(argv);
    return {output.exit_code, contents(trace).find("(INJECTED)") != std::string::npos, output.err};
  }

  // What is wrong with what lies there now; empty when it is the old or the new file.
  std::string damage() const {
    const std::string text = contents(m_file);
    if (text != m_before && text != m_after) {
      return base::format("a third thing of {} bytes", text.size());
    }
    struct stat status = {};
    if (::stat(m_file.c_str(), &status) != 0 || (status.st_mode & 07777) != 0640) {
      return "another mode";
    }
    return {};
  }
  bool is_new() const { return contents(m_file) == m_after; }

 private:
  fs::path trace_file() const { return m_directory / "trace"; }

  fs::path m_directory;
  fs::path m_file;
  bool m_in_place;
  std::string m_before = old_list();
  std::string m_after;
};

bool has_strace() {
  if (!base::find_tool("strace")) {
    return false;
  }
  const auto probe = base::run({.argv = {"strace", "-qq", "-o", "/dev/null", "/bin/true"}});
  return probe && probe->exit_code == 0;
}

struct Sweep {
  int points = 0;
  int hit = 0;
  std::vector<std::string> findings;
};

Sweep kill_everywhere(Lab& lab) {
  Sweep sweep;
  for (const Point& point : lab.record()) {
    ++sweep.points;
    lab.reset();
    const auto outcome = lab.inject(point, "signal=KILL");
    sweep.hit += outcome.exit_code == 128 + SIGKILL ? 1 : 0;
    const auto where = base::format("{} #{} ({})", point.name, point.ordinal, point.line);
    if (const auto damage = lab.damage(); !damage.empty()) {
      sweep.findings.push_back("killed before " + where + ": " + damage);
    }
    if (run(lab.tool()).exit_code != 0 || !lab.is_new()) {
      sweep.findings.push_back("killed before " + where + ": the next registration does not succeed");
    }
  }
  return sweep;
}

}  // namespace

#define NEEDS_STRACE()                                               \
  if (!has_strace()) {                                               \
    GTEST_SKIP() << "strace is not installed or may not trace here"; \
  }

TEST(AllowlistCrash, KilledBeforeAnySystemCallLeavesOldOrNew) {
  NEEDS_STRACE();
  const test::TempDir directory;
  Lab lab(directory.path());
  const auto sweep = kill_everywhere(lab);
  EXPECT_GT(sweep.points, 20);
  EXPECT_EQ(sweep.hit, sweep.points) << "the sweep did not kill where it meant to";
  for (const auto& finding : sweep.findings) {
    ADD_FAILURE() << finding;
  }
  std::cout << sweep.points << " system calls\n";
}

TEST(AllowlistCrash, TheSweepFindsAWriterInPlace) {
  NEEDS_STRACE();
  const test::TempDir directory;
  Lab lab(directory.path(), /*in_place=*/true);
  EXPECT_FALSE(kill_everywhere(lab).findings.empty());
}

class FailingCall : public testing::TestWithParam<const char*> {};

TEST_P(FailingCall, IsReportedAndLeavesOldOrNew) {
  NEEDS_STRACE();
  const std::string error = GetParam();
  const test::TempDir directory;
  Lab lab(directory.path());
  const auto points = lab.record();
  // The calls that a file system answers; others cannot fail with these.
  const std::set<std::string> calls{"openat", "open",  "newfstatat", "fstat",  "stat",   "lstat", "read",
                                    "write",  "fsync", "fchmod",     "fchown", "rename", "flock"};
  int tried = 0;
  for (const Point& point : points) {
    // Only what names or touches the list: in the full sweep the loader's calls are among the points.
    if (!calls.contains(point.name)) {
      continue;
    }
    ++tried;
    lab.reset();
    const auto outcome = lab.inject(point, "error=" + error);
    const auto where = base::format("{} #{} ({})", point.name, point.ordinal, point.line);
    EXPECT_TRUE(outcome.injected) << where;
    EXPECT_EQ(lab.damage(), "") << where;
    if (outcome.exit_code == 0) {
      EXPECT_TRUE(lab.is_new()) << "success was reported, but nothing was written: " << where;
    } else if (!full_sweep()) {
      EXPECT_NE(outcome.err.find("allow.json"), std::string::npos) << where << "\n" << outcome.err;
      EXPECT_NE(outcome.err.find(std::strerror(error == "ENOSPC"  ? ENOSPC
                                               : error == "EIO"   ? EIO
                                               : error == "EINTR" ? EINTR
                                                                  : EROFS)),
                std::string::npos)
          << where << "\n"
          << outcome.err;
    }
    EXPECT_EQ(run(lab.tool()).exit_code, 0) << "no recovery after " << where;
    EXPECT_TRUE(lab.is_new()) << where;
    // No temporary file may pile up where the disk is full already.
    for (const auto& entry : fs::directory_iterator(directory.path())) {
      EXPECT_FALSE(entry.path().extension() == ".tmp") << entry.path() << " after " << where;
    }
  }
  EXPECT_GT(tried, 10);
}

INSTANTIATE_TEST_SUITE_P(Errors, FailingCall, testing::Values("ENOSPC", "EIO", "EROFS", "EINTR"));

namespace {

// An ext4 file system in a file, mounted where only this process sees it.
class LoopDisk {
 public:
  // Empty, or why this machine cannot.
  std::string set_up() {
    if (::geteuid() != 0) {
      return "mounting needs root";
    }
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      return base::format("no mount namespace of its own: {}", std::strerror(errno));
    }
    fs::create_directory(mount_point());
    std::ofstream(image()).close();
    fs::resize_file(image(), 16 << 20);
    const auto made = base::run_checked({.argv = {"mkfs.ext4", "-q", "-F", image().string()}});
    if (!made) {
      return made.error().what();
    }
    return mount();
  }
  ~LoopDisk() {
    if (m_mounted) {
      ::umount(mount_point().c_str());
    }
  }
  LoopDisk() = default;
  LoopDisk(const LoopDisk&) = delete;
  LoopDisk& operator=(const LoopDisk&) = delete;

  fs::path mount_point() const { return m_directory.path() / "mnt"; }

  // Everything that is not on the disk is gone; the journal is replayed as after power came back.
  void cut_power() {
    constexpr unsigned long k_shutdown = _IOR('X', 125, std::uint32_t);
    std::uint32_t no_log_flush = 2;
    {
      const base::Fd fd(::open(mount_point().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      ASSERT_EQ(::ioctl(fd.get(), k_shutdown, &no_log_flush), 0) << std::strerror(errno);
    }
    ASSERT_EQ(::umount(mount_point().c_str()), 0) << std::strerror(errno);
    m_mounted = false;
    ASSERT_EQ(mount(), "");
  }

 private:
  fs::path image() const { return m_directory.path() / "disk"; }
  std::string mount() {
    // Without the heuristic that repairs programs which forget to sync.
    const auto mounted = base::run_checked({.argv = {"mount", "-t", "ext4", "-o", "loop,noauto_da_alloc",
                                                     image().string(), mount_point().string()}});
    m_mounted = mounted.has_value();
    return mounted ? std::string() : mounted.error().what();
  }

  const test::TempDir m_directory;
  bool m_mounted = false;
};

}  // namespace

#define NEEDS_LOOP_DISK(disk)                                 \
  LoopDisk disk;                                              \
  if (const auto problem = disk.set_up(); !problem.empty()) { \
    GTEST_SKIP() << "no loop file system here: " << problem;  \
  }

TEST(AllowlistPowerCut, WhatWasAcknowledgedIsThere) {
  NEEDS_STRACE();
  NEEDS_LOOP_DISK(disk);
  Lab lab(disk.mount_point());
  lab.record();
  for (int trial = 0; trial < 5; ++trial) {
    lab.reset();
    ASSERT_EQ(run(lab.tool()).exit_code, 0);
    disk.cut_power();
    EXPECT_TRUE(lab.is_new()) << "an acknowledged registration is lost";
    EXPECT_EQ(lab.damage(), "");
  }
}

TEST(AllowlistPowerCut, ACrashInBetweenLeavesOldOrNew) {
  NEEDS_STRACE();
  NEEDS_LOOP_DISK(disk);
  Lab lab(disk.mount_point());
  auto points = lab.record();
  if (!full_sweep()) {
    const std::set<std::string> calls{"write", "fsync", "rename", "fchmod", "close"};
    std::erase_if(points, [&](const Point& point) { return !calls.contains(point.name); });
  }
  for (const Point& point : points) {
    lab.reset();
    EXPECT_EQ(lab.inject(point, "signal=KILL").exit_code, 128 + SIGKILL) << point.line;
    disk.cut_power();
    EXPECT_EQ(lab.damage(), "") << "killed before " << point.line;
  }
  EXPECT_GE(points.size(), 5U);
}

TEST(AllowlistPowerCut, FindsAWriterThatDoesNotSync) {
  NEEDS_STRACE();
  NEEDS_LOOP_DISK(disk);
  Lab lab(disk.mount_point(), /*in_place=*/true);
  lab.record();
  lab.reset();
  ASSERT_EQ(run(lab.tool()).exit_code, 0);
  disk.cut_power();
  EXPECT_FALSE(lab.is_new() && lab.damage().empty());
}

TEST(AllowlistWriters, SixteenProcessesLoseNothing) {
  // In memory where that is possible: 3,200 times two fsyncs on a disk is what `./dev bench crash` waits for.
  const bool memory = !full_sweep() && ::access("/dev/shm", W_OK) == 0;
  const test::TempDir directory(memory ? "/dev/shm" : fs::temp_directory_path());
  Lab lab(directory.path());
  lab.reset();
  const int each = memory || full_sweep() ? 200 : 15;
  std::vector<pid_t> children;
  for (int i = 0; i < 16; ++i) {
    const auto pid = base::spawn({.argv = {ALLOWLIST_TOOL, lab.file().string(),
                                           std::to_string(1000 * (i + 1)), std::to_string(each)}});
    ASSERT_TRUE(pid) << pid.error().what();
    children.push_back(*pid);
  }
  for (const pid_t child : children) {
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  const auto list = app::parse_allowlist(contents(lab.file()));
  ASSERT_TRUE(list) << list.error().what();
  EXPECT_EQ(list->apps.size(), 40U + 16U * static_cast<unsigned>(each));
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < each; ++k) {
      const auto found = list->apps.find(base::format("{:040x}", 1000 * (i + 1) + k));
      ASSERT_NE(found, list->apps.end());
      EXPECT_TRUE(found->second.compose_hashes.contains(base::format("{:064x}", 1000 * (i + 1) + k)));
    }
  }
  EXPECT_NE(contents(lab.file()).find("\"note\": \"kept\""), std::string::npos);
}
