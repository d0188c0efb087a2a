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

TEST(Progress, WithoutATerminalBytesAreALineAQuarter) {
  Fixture f;
  cli::Progress progress(f.streams, false, f.clock);
  for (std::uint64_t done = 0; done <= 100; ++done) {
    progress.bytes("image", done * 1048576, 100 * 1048576);
  }
  EXPECT_EQ(f.err.str(),
            "[  0.0s] image: 25 %, 25.0 of 100.0 MiB\n[  0.0s] image: 50 %, 50.0 of 100.0 MiB\n"
            "[  0.0s] image: 75 %, 75.0 of 100.0 MiB\n[  0.0s] image: 100 %, 100.0 of 100.0 MiB\n");
  f.err.str("");
  for (std::uint64_t done = 0; done <= 120; ++done) {
    progress.bytes("other", done * 1048576, std::nullopt);
  }
  EXPECT_EQ(f.err.str(), "[  0.0s] other: 50.0 MiB\n[  0.0s] other: 100.0 MiB\n");
}

TEST(Progress, OnATerminalBytesAreABar) {
  Fixture f;
  f.streams.err_is_terminal = true;
  cli::Progress progress(f.streams, false, f.clock);
  progress.bytes("image", 20 * 1048576, 100 * 1048576);  // the beginning was there
  f.now += 10s;
  progress.bytes("image", 60 * 1048576, 100 * 1048576);
  EXPECT_THAT(f.err.str(), HasSubstr("[######........................]  20 %  20.0/100.0 MiB"));
  EXPECT_THAT(f.err.str(),
              HasSubstr("[##################............]  60 %  60.0/100.0 MiB  4.0 MiB/s  10.0s left"));
  EXPECT_THAT(f.err.str(), Not(HasSubstr("\n")));
  const auto shown = f.err.str().size();
  progress.bytes("image", 61 * 1048576, 100 * 1048576);
  EXPECT_EQ(f.err.str().size(), shown);  // not more than ten times a second
  progress.bytes("image", 0, 0);
  progress.bytes("image", 7, std::nullopt);
}

TEST(FormatSeconds, Forms) {
  EXPECT_EQ(cli::format_seconds(4200ms), "4.2s");
  EXPECT_EQ(cli::format_seconds(59.97s), "1m 00s");
  EXPECT_EQ(cli::format_seconds(65s), "1m 05s");
}
