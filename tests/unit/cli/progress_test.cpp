#include "cli/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

using namespace dstack;
using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::Not;

namespace {

struct Fixture {
  std::ostringstream out;
  std::ostringstream err;
  cli::Streams streams{out, err};
  std::chrono::steady_clock::time_point now{};
  cli::SteadyClock clock = [this] { return now; };
};

}  // namespace

TEST(Progress, StepsCarryTheSecondsSinceTheStart) {
  Fixture f;
  cli::Progress progress(f.streams, false, f.clock);
  f.now += 3250ms;
  progress.step("starting containers");
  progress.ok("fine");
  progress.warn("careful");
  EXPECT_EQ(f.err.str(), "[  3.2s] starting containers\n[ok]  fine\n[!]   careful\n");
  EXPECT_EQ(f.out.str(), "");
}

TEST(Progress, WithoutATerminalWaitingIsALineNowAndThen) {
  Fixture f;
  cli::Progress progress(f.streams, false, f.clock);
  for (int i = 0; i < 100; ++i) {
    progress.waiting("boot");
    f.now += 200ms;
  }
  EXPECT_EQ(f.err.str(), "[  0.0s] waiting: boot\n[ 15.0s] waiting: boot\n");
}

TEST(Progress, WaitingForTheStepThatWasJustPrintedIsNotRepeated) {
  Fixture f;
  cli::Progress progress(f.streams, false, f.clock);
  progress.step("boot");
  progress.waiting("boot");
  EXPECT_EQ(f.err.str(), "[  0.0s] boot\n");
  f.now += 15s;
  progress.waiting("boot");
  EXPECT_EQ(f.err.str(), "[  0.0s] boot\n[ 15.0s] waiting: boot\n");
}

TEST(Progress, OnATerminalTheLineIsRewrittenAndCleared) {
  Fixture f;
  f.streams.err_is_terminal = true;
  {
    cli::Progress progress(f.streams, false, f.clock);
    progress.waiting("boot");
    progress.waiting("boot");
    EXPECT_THAT(f.err.str(), Not(HasSubstr("\n")));
    progress.step("next");
    EXPECT_THAT(f.err.str(), HasSubstr("\r\x1b[K[  0.0s] next\n"));
    progress.waiting("more");
  }
  EXPECT_TRUE(f.err.str().ends_with("\r\x1b[K"));
}

TEST(Progress, QuietPrintsNothingAndTextIsEscaped) {
  Fixture f;
  {
    cli::Progress progress(f.streams, true, f.clock);
    progress.step("a");
    progress.waiting("b");
  }
  EXPECT_EQ(f.err.str(), "");
  cli::Progress progress(f.streams, false, f.clock);
  progress.step("\x1b[2J");
  EXPECT_THAT(f.err.str(), Not(HasSubstr("\x1b")));
}

TEST(FormatSeconds, Forms) {
  EXPECT_EQ(cli::format_seconds(4200ms), "4.2s");
  EXPECT_EQ(cli::format_seconds(59.97s), "1m 00s");
  EXPECT_EQ(cli::format_seconds(65s), "1m 05s");
}
