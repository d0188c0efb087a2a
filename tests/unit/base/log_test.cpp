#include "base/log.h"

#include <gtest/gtest.h>

using namespace dstack::base;

TEST(EscapeControl, NeutralisesTerminalSequencesAndForgedLines) {
  EXPECT_EQ(escape_control("a\x1b[31mb\nc\x7f"), "a\\x1b[31mb\\x0ac\\x7f");
  EXPECT_EQ(escape_control("a\nb\tc", true), "a\nb\tc");
  EXPECT_EQ(escape_control("é"), "é");
}

TEST(Log, WritesOneEscapedLineAndDropsWhatIsBelowTheLevel) {
  log_setup("unit", LogLevel::info);
  testing::internal::CaptureStderr();
  log_debug("hidden");
  log_warn("two\nlines");
  const auto text = testing::internal::GetCapturedStderr();
  EXPECT_EQ(text.find("hidden"), std::string::npos);
  EXPECT_NE(text.find("warn  unit: two\\x0alines\n"), std::string::npos);
}

TEST(ParseLogLevel, FallsBack) {
  EXPECT_EQ(parse_log_level("debug", LogLevel::info), LogLevel::debug);
  EXPECT_EQ(parse_log_level("error", LogLevel::info), LogLevel::error);
  EXPECT_EQ(parse_log_level("", LogLevel::warn), LogLevel::warn);
}
