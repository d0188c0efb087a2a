#include "guest/events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/fs.h"
#include "unit/guest/temp_dir.h"

namespace dstack::guest {
namespace {

TEST(EventLog, WritesJsonLinesOfAPrivateFile) {
  const TempDir dir;
  const auto log = EventLog::create(dir / "log/events.log").value();
  ASSERT_TRUE(log->emit("system-preparing").has_value());
  ASSERT_TRUE(log->emit("app-id", base::Bytes{0xde, 0xad, 0xbe, 0xef}).has_value());
  EXPECT_EQ(
      base::read_file(dir / "log/events.log").value(),
      "{\"event\":\"system-preparing\",\"payload\":\"\"}\n{\"event\":\"app-id\",\"payload\":\"3q2+7w==\"}\n");
  struct stat info{};
  ASSERT_EQ(::stat((dir / "log/events.log").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0600u);
  ASSERT_EQ(log->events().size(), 2u);
  EXPECT_EQ(log->events()[1].event, "app-id");
}

TEST(EventLog, ExtendsBeforeItWrites) {
  const TempDir dir;
  std::size_t size_at_extend = 99;
  const auto file = dir / "events.log";
  const auto log = EventLog::create(file, [&](const attest::RuntimeEvent&) -> base::Result<> {
                     size_at_extend = std::filesystem::file_size(file);
                     return {};
                   }).value();
  ASSERT_TRUE(log->emit("a").has_value());
  EXPECT_EQ(size_at_extend, 0u);
  EXPECT_GT(std::filesystem::file_size(file), 0u);
}

TEST(EventLog, AFailedExtensionLeavesNoTrace) {
  const TempDir dir;
  const auto file = dir / "events.log";
  const auto log = EventLog::create(file, [](const attest::RuntimeEvent&) -> base::Result<> {
                     return base::fail(base::Code::attest, "no register");
                   }).value();
  EXPECT_FALSE(log->emit("a").has_value());
  EXPECT_TRUE(log->events().empty());
  EXPECT_EQ(std::filesystem::file_size(file), 0u);
}

TEST(EventLog, StartsEmptyAndFollowsNoSymlink) {
  const TempDir dir;
  dir.write("target", "precious");
  std::filesystem::create_symlink(dir / "target", dir / "events.log");
  EXPECT_FALSE(EventLog::create(dir / "events.log").has_value());
  EXPECT_EQ(base::read_file(dir / "target").value(), "precious");
}

}  // namespace
}  // namespace dstack::guest
