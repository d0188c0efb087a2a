#include "base/fs.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <future>
#include <thread>

#include "unit/temp_dir.h"

using namespace dstack::base;
using dstack::test::TempDir;

TEST(ReadFile, TellsMissingFromTooLarge) {
  const TempDir dir;
  EXPECT_EQ(read_file(dir / "none").error().code, Code::not_found);
  ASSERT_TRUE(write_file_atomic(dir / "f", "12345"));
  EXPECT_EQ(*read_file(dir / "f"), "12345");
  EXPECT_EQ(*read_file(dir / "f", 5), "12345");
  EXPECT_EQ(read_file(dir / "f", 4).error().code, Code::too_large);
}

// A FIFO in the place of a file kept us waiting for ever.
TEST(ReadFile, WaitsForNobody) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "pipe").c_str(), 0600), 0);
  const auto pipe = read_file(dir / "pipe");
  ASSERT_FALSE(pipe);
  EXPECT_EQ(pipe.error().code, Code::io);
  EXPECT_NE(pipe.error().what().find("not a regular file"), std::string::npos);
  EXPECT_NE(read_file(dir.path()).error().what().find("is a directory"), std::string::npos);
  fs::create_symlink("/dev/zero", dir / "endless");
  EXPECT_EQ(read_file(dir / "endless", 10).error().code, Code::io);
  EXPECT_FALSE(read_file("/proc/self/status")->empty());
}

TEST(ReadFile, ReadsAPipeThatIsNamedAsOne) {
  int ends[2] = {};
  ASSERT_EQ(::pipe(ends), 0);
  ASSERT_EQ(::write(ends[1], "abc", 3), 3);
  ::close(ends[1]);
  EXPECT_EQ(*read_file("/dev/fd/" + std::to_string(ends[0])), "abc");
  ::close(ends[0]);
}

TEST(WriteFileAtomic, KeepsTheModeOfAnExistingFileAndLeavesNoTemporary) {
  const TempDir dir;
  ASSERT_TRUE(write_file_atomic(dir / "f", "a", {.mode = 0640}));
  ASSERT_TRUE(write_file_atomic(dir / "f", "b", {.mode = 0600}));
  struct stat info = {};
  ASSERT_EQ(::stat((dir / "f").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640U);
  EXPECT_EQ(*read_file(dir / "f"), "b");
  ASSERT_TRUE(write_file_atomic(dir / "f", "c", {.mode = 0600, .force_mode = true}));
  ASSERT_EQ(::stat((dir / "f").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600U);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(WriteFileAtomic, RefusesASymlinkAndADirectory) {
  const TempDir dir;
  fs::create_symlink("/etc/hostname", dir / "link");
  EXPECT_FALSE(write_file_atomic(dir / "link", "x"));
  EXPECT_TRUE(fs::is_symlink(dir / "link"));
  fs::create_directory(dir / "d");
  EXPECT_FALSE(write_file_atomic(dir / "d", "x"));
}

TEST(WriteFileAtomic, AFullDiskIsSaidAndTheOldFileStays) {
  const TempDir dir;
  ASSERT_TRUE(write_file_atomic(dir / "f", "old"));
  // The limit on file size stands in for a full disk: write() fails, and nothing may change.
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1024, 1024};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::_exit(write_file_atomic(dir / "f", std::string(65536, 'x')) ? 0 : 42);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 42);
  EXPECT_EQ(*read_file(dir / "f"), "old");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

// Upstream 638e8a0e: four writers with one fixed temporary name lost 120 of 160 writes.
TEST(WriteFileAtomic, FourWritersNeverTearAFile) {
  const TempDir dir;
  std::vector<std::thread> writers;
  for (char c = 'a'; c < 'e'; ++c) {
    writers.emplace_back([&dir, c] {
      for (int round = 0; round < 40; ++round) {
        EXPECT_TRUE(write_file_atomic(dir / "f", std::string(5000, c)));
      }
    });
  }
  for (auto& writer : writers) {
    writer.join();
  }
  const auto text = read_file(dir / "f");
  ASSERT_TRUE(text);
  EXPECT_EQ(*text, std::string(5000, text->at(0)));
  EXPECT_EQ(std::distance(fs::directory_iterator(dir.path()), {}), 1);
}

TEST(MakeDirs, SetsTheModeWhateverTheUmaskAndRefusesAFile) {
  const TempDir dir;
  const mode_t old = ::umask(077);
  ASSERT_TRUE(make_dirs(dir / "a/b", 0755));
  ::umask(old);
  struct stat info = {};
  ASSERT_EQ(::stat((dir / "a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0755U);
  ASSERT_TRUE(write_file_atomic(dir / "f", ""));
  EXPECT_FALSE(make_dirs(dir / "f"));
}

TEST(RemoveTree, FollowsNoSymlink) {
  const TempDir dir;
  ASSERT_TRUE(make_dirs(dir / "keep"));
  ASSERT_TRUE(write_file_atomic(dir / "keep/file", "x"));
  ASSERT_TRUE(make_dirs(dir / "gone"));
  fs::create_directory_symlink(dir / "keep", dir / "gone/link");
  ASSERT_TRUE(remove_tree(dir / "gone"));
  EXPECT_TRUE(fs::exists(dir / "keep/file"));
  EXPECT_TRUE(remove_tree(dir / "gone"));
}

TEST(FileLock, IsExclusiveUntilDropped) {
  const TempDir dir;
  {
    auto held = FileLock::acquire(dir / "lock");
    ASSERT_TRUE(held);
    auto second = FileLock::try_acquire(dir / "lock");
    ASSERT_TRUE(second);
    EXPECT_FALSE(second->has_value());
  }
  auto third = FileLock::try_acquire(dir / "lock");
  ASSERT_TRUE(third);
  EXPECT_TRUE(third->has_value());
}

// Until two processes hold "the lock": one the removed file's, one that of the file made after it.
TEST(FileLock, WhoWaitedForARemovedFileLocksTheOneAtThePath) {
  const TempDir dir;
  const auto path = dir / "lock";
  std::optional<FileLock> held;
  {
    auto first = FileLock::acquire(path);
    ASSERT_TRUE(first);
    held.emplace(std::move(*first));
  }
  auto waiting = std::async(std::launch::async, [&] { return FileLock::acquire(path); });
  EXPECT_EQ(waiting.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  ASSERT_TRUE(remove_file(path));
  held.reset();
  const auto second = waiting.get();
  ASSERT_TRUE(second);
  EXPECT_TRUE(std::filesystem::exists(path));
  const auto third = FileLock::try_acquire(path);
  ASSERT_TRUE(third);
  EXPECT_FALSE(third->has_value());
}

TEST(FileLock, ARemovedDirectoryIsReportedToWhoWaited) {
  const TempDir dir;
  std::filesystem::create_directory(dir / "state");
  const auto path = dir / "state/lock";
  std::optional<FileLock> held;
  {
    auto first = FileLock::acquire(path);
    ASSERT_TRUE(first);
    held.emplace(std::move(*first));
  }
  auto waiting = std::async(std::launch::async, [&] { return FileLock::acquire(path); });
  EXPECT_EQ(waiting.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  std::filesystem::remove_all(dir / "state");
  held.reset();
  EXPECT_FALSE(waiting.get());
}
