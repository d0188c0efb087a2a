// The writer of the allow-list under SIGKILL before its system calls, failing system calls, power cuts and
// competition. With DSTACK_FULL_SWEEP set (./dev bench crash) every system call is taken, else those that
// matter.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

#include "app/allowlist.h"
#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "integration/loop_disk.h"
#include "integration/strace_points.h"
#include "unit/temp_dir.h"

namespace fs = std::filesystem;
using namespace dstack;
using test::full_sweep;
using test::SystemCall;

namespace {

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
  std::vector<SystemCall> record() {
    reset();
    base::Output output;
    auto calls = test::trace_calls(tool(), output);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    m_after = contents(m_file);
    EXPECT_NE(m_after, m_before);
    if (!full_sweep()) {
      // Before its first look at the file the program is only being loaded.
      const auto first = std::ranges::find_if(calls, [&](const SystemCall& call) {
        return call.line.find(m_file.string()) != std::string::npos;
      });
      calls.erase(calls.begin(), first);
    }
    return calls;
  }

  test::Injected inject(const SystemCall& call, const std::string& what) const {
    return test::run_with_fault(tool(), call, what);
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
  fs::path m_directory;
  fs::path m_file;
  bool m_in_place;
  std::string m_before = old_list();
  std::string m_after;
};

struct Sweep {
  int points = 0;
  int hit = 0;
  std::vector<std::string> findings;
};

Sweep kill_everywhere(Lab& lab) {
  Sweep sweep;
  for (const SystemCall& point : lab.record()) {
    ++sweep.points;
    lab.reset();
    const auto outcome = lab.inject(point, "signal=KILL");
    sweep.hit += outcome.output.exit_code == 128 + SIGKILL ? 1 : 0;
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

TEST(AllowlistCrash, KilledBeforeAnySystemCallLeavesOldOrNew) {
  DSTACK_NEEDS_STRACE();
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
  DSTACK_NEEDS_STRACE();
  const test::TempDir directory;
  Lab lab(directory.path(), /*in_place=*/true);
  EXPECT_FALSE(kill_everywhere(lab).findings.empty());
}

class FailingCall : public testing::TestWithParam<const char*> {};

TEST_P(FailingCall, IsReportedAndLeavesOldOrNew) {
  DSTACK_NEEDS_STRACE();
  const std::string error = GetParam();
  const test::TempDir directory;
  Lab lab(directory.path());
  const auto points = lab.record();
  // The calls that a file system answers; others cannot fail with these.
  const std::set<std::string> calls{"openat", "open",  "newfstatat", "fstat",  "stat",   "lstat", "read",
                                    "write",  "fsync", "fchmod",     "fchown", "rename", "flock"};
  int tried = 0;
  for (const SystemCall& point : points) {
    // Only what names or touches the list: in the full sweep the loader's calls are among the points.
    if (!calls.contains(point.name)) {
      continue;
    }
    ++tried;
    lab.reset();
    const auto outcome = lab.inject(point, "error=" + error);
    const auto where = base::format("{} #{} ({})", point.name, point.ordinal, point.line);
    EXPECT_TRUE(outcome.hit) << where;
    EXPECT_EQ(lab.damage(), "") << where;
    if (outcome.output.exit_code == 0) {
      EXPECT_TRUE(lab.is_new()) << "success was reported, but nothing was written: " << where;
    } else if (!full_sweep()) {
      EXPECT_NE(outcome.output.err.find("allow.json"), std::string::npos) << where << "\n"
                                                                          << outcome.output.err;
      EXPECT_NE(outcome.output.err.find(std::strerror(error == "ENOSPC"  ? ENOSPC
                                                      : error == "EIO"   ? EIO
                                                      : error == "EINTR" ? EINTR
                                                                         : EROFS)),
                std::string::npos)
          << where << "\n"
          << outcome.output.err;
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

class AllowlistPowerCut : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    DSTACK_NEEDS_STRACE();
    if (const auto problem = test::own_mounts(); !problem.empty()) {
      GTEST_SKIP() << problem;
    }
    DSTACK_NEEDS_LOOP_DISK(disk);
  }

  const test::TempDir directory;
  test::LoopDisk disk{directory.path(), GetParam()};
};

}  // namespace

TEST_P(AllowlistPowerCut, WhatWasAcknowledgedIsThere) {
  Lab lab(disk.mount_point());
  lab.record();
  for (int trial = 0; trial < 5; ++trial) {
    lab.reset();
    ASSERT_EQ(run(lab.tool()).exit_code, 0);
    ASSERT_EQ(disk.cut_power(), "");
    EXPECT_TRUE(lab.is_new()) << "an acknowledged registration is lost";
    EXPECT_EQ(lab.damage(), "");
  }
}

TEST_P(AllowlistPowerCut, ACrashInBetweenLeavesOldOrNew) {
  Lab lab(disk.mount_point());
  auto points = lab.record();
  if (!full_sweep()) {
    const std::set<std::string> calls{"write", "fsync", "rename", "fchmod", "close"};
    std::erase_if(points, [&](const SystemCall& point) { return !calls.contains(point.name); });
  }
  for (const SystemCall& point : points) {
    lab.reset();
    EXPECT_EQ(lab.inject(point, "signal=KILL").output.exit_code, 128 + SIGKILL) << point.line;
    ASSERT_EQ(disk.cut_power(), "");
    EXPECT_EQ(lab.damage(), "") << "killed before " << point.line;
  }
  EXPECT_GE(points.size(), 5U);
}

TEST_P(AllowlistPowerCut, FindsAWriterThatDoesNotSync) {
  Lab lab(disk.mount_point(), /*in_place=*/true);
  lab.record();
  lab.reset();
  ASSERT_EQ(run(lab.tool()).exit_code, 0);
  ASSERT_EQ(disk.cut_power(), "");
  EXPECT_FALSE(lab.is_new() && lab.damage().empty());
}

INSTANTIATE_TEST_SUITE_P(FileSystems, AllowlistPowerCut, testing::ValuesIn(test::k_loop_disk_types),
                         [](const auto& type) { return std::string(type.param); });

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
