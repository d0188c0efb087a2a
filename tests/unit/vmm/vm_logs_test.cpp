#include "vmm/vm_logs.h"

#include <gtest/gtest.h>

#include <fstream>
#include <thread>

#include "base/fs.h"
#include "unit/temp_dir.h"

namespace dstack::vmm {
namespace {

std::string tail(const fs::path& path, TailOptions options) {
  LogTail log(path, options);
  std::string out;
  while (const auto chunk = log.next()) {
    EXPECT_LE(chunk->size(), 3U * 8 * 1024);
    out += *chunk;
  }
  return out;
}

void append(const fs::path& path, std::string_view text) {
  std::ofstream(path, std::ios::app | std::ios::binary) << text;
}

std::string read(const fs::path& path) {
  return base::read_file(path).value_or("<none>");
}

TEST(LogTail, LastLines) {
  test::TempDir lab;
  const auto log = lab / "serial.log";
  EXPECT_EQ(tail(log, {}), "") << "no file, no lines";
  append(log, "");
  EXPECT_EQ(tail(log, {}), "");
  append(log, "one\ntwo\n\nfour");
  EXPECT_EQ(tail(log, {}), "one\ntwo\n\nfour");
  EXPECT_EQ(tail(log, {.lines = 0}), "");
  EXPECT_EQ(tail(log, {.lines = 1}), "four");
  EXPECT_EQ(tail(log, {.lines = 2}), "\nfour");
  EXPECT_EQ(tail(log, {.lines = 3}), "two\n\nfour");
  append(log, "\n");
  EXPECT_EQ(tail(log, {.lines = 1}), "four\n");
  EXPECT_EQ(tail(log, {.lines = UINT64_MAX}), "one\ntwo\n\nfour\n");
}

TEST(LogTail, ManyLinesAcrossChunks) {
  test::TempDir lab;
  std::string all;
  for (int i = 0; i < 20'000; ++i) {
    all += "line " + std::to_string(i) + "\n";
  }
  all += std::string(50'000, 'x') + "\n";
  append(lab / "log", all);
  EXPECT_EQ(tail(lab / "log", {.lines = 1'000'000}), all);
  EXPECT_EQ(tail(lab / "log", {.lines = 1}), std::string(50'000, 'x') + "\n");
  const auto last = tail(lab / "log", {.lines = 10'001});
  EXPECT_TRUE(last.starts_with("line 10000\n")) << last.substr(0, 20);
}

TEST(LogTail, FollowsAppendsTruncationAndLateFiles) {
  test::TempDir lab;
  LogTail log(lab / "log", {.lines = 1, .follow = true});
  EXPECT_EQ(log.next(0), "");
  append(lab / "log", "first\n");
  EXPECT_EQ(log.next(0), "first\n") << "a file that appears is read from its beginning";
  append(lab / "log", "second\n");
  EXPECT_EQ(log.next(0), "second\n");
  fs::resize_file(lab / "log", 0);
  append(lab / "log", "new\n");
  EXPECT_EQ(log.next(0), "new\n");
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
    append(lab / "log", "late\n");
  });
  std::string got;
  for (int i = 0; i < 100 && got.empty(); ++i) {
    got = log.next(200).value_or("end");
  }
  writer.join();
  EXPECT_EQ(got, "late\n");
}

TEST(AnsiStripper, RemovesSequencesAcrossChunks) {
  const std::string text =
      "a\x1b[1;31mred\x1b[0m \x1b]0;title\x07"
      "b\x1b(Bc\r\n\x1b]8;;http://x\x1b\\link\x01\x7f\tend\n";
  const std::string plain = "ared bc\nlink\tend\n";
  EXPECT_EQ(AnsiStripper().feed(text), plain);
  AnsiStripper piecewise;
  std::string out;
  for (const char c : text) {
    out += piecewise.feed({&c, 1});
  }
  EXPECT_EQ(out, plain);
  EXPECT_EQ(AnsiStripper().feed("x\x1b[12\ny\x1b]abc\nz"), "x\ny\nz")
      << "a broken sequence ends with its line";
}

TEST(Utf8Repair, ReplacesWhatIsNotUtf8) {
  const auto repaired = [](std::string_view text) {
    Utf8Repair repair;
    std::string out;
    for (const char c : text) {
      out += repair.feed({&c, 1});
    }
    EXPECT_EQ(Utf8Repair().feed(text) + "", out);
    return out + repair.finish();
  };
  EXPECT_EQ(repaired("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80"),
            "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80");
  EXPECT_EQ(repaired("a\xff"
                     "b"),
            "a\xef\xbf\xbd"
            "b");
  EXPECT_EQ(repaired("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd") << "overlong";
  EXPECT_EQ(repaired("\xed\xa0\x80").size(), 9U) << "surrogate";
  EXPECT_EQ(repaired("x\xe2\x82"), "x\xef\xbf\xbd\xef\xbf\xbd") << "cut off";
}

TEST(LogRotation, CopiesAndTruncatesInPlace) {
  test::TempDir lab;
  const auto log = lab / "serial.log";
  ASSERT_TRUE(rotate_log(log, 2)) << "nothing to do";
  std::ofstream writer(log, std::ios::app);
  writer << "one" << std::flush;
  ASSERT_TRUE(rotate_log(log, 2));
  writer << "two" << std::flush;
  EXPECT_EQ(read(log), "two") << "the writer keeps its file";
  ASSERT_TRUE(rotate_log(log, 2));
  ASSERT_TRUE(rotate_log(log, 2));
  writer << "three" << std::flush;
  ASSERT_TRUE(rotate_log(log, 2));
  EXPECT_EQ(read(log), "");
  EXPECT_EQ(read(lab / "serial.log.1"), "three");
  EXPECT_EQ(read(lab / "serial.log.2"), "two");
  EXPECT_FALSE(fs::exists(lab / "serial.log.3"));
}

TEST(LogRotation, AtBootAndBySize) {
  test::TempDir lab;
  const auto log = lab / "serial.log";
  constexpr std::int64_t k_time = 1'767'323'045'678;
  ASSERT_TRUE(begin_boot_log(log, 3, k_time));
  EXPECT_FALSE(fs::exists(log)) << "the first boot starts an empty log";
  append(log, "old");
  ASSERT_TRUE(begin_boot_log(log, 3, k_time));
  EXPECT_EQ(read(log), "\n===== boot @ 2026-01-02T03:04:05Z =====\n");
  EXPECT_EQ(read(lab / "serial.log.1"), "old");

  const LogPolicy policy{.max_bytes = 100, .max_backups = 1};
  ASSERT_TRUE(bound_log(log, policy, k_time));
  EXPECT_EQ(read(lab / "serial.log.1"), "old") << "small enough";
  append(log, std::string(200, 'x'));
  const auto size = fs::file_size(log);
  ASSERT_TRUE(bound_log(log, policy, k_time));
  EXPECT_EQ(read(log), "\n===== rotated " + std::to_string(size) +
                           " bytes to serial.log.1 @ 2026-01-02T03:04:05Z =====\n\n");
  append(log, std::string(200, 'x'));
  ASSERT_TRUE(bound_log(log, {.max_bytes = 100, .max_backups = 0}, k_time));
  EXPECT_TRUE(read(log).starts_with("\n===== discarded "));
}

TEST(LogRotation, FollowsNoSymlink) {
  test::TempDir lab;
  append(lab / "victim", "text");
  fs::create_symlink(lab / "victim", lab / "serial.log");
  EXPECT_FALSE(rotate_log(lab / "serial.log", 1));
  EXPECT_EQ(read(lab / "victim"), "text");
}

}  // namespace
}  // namespace dstack::vmm
