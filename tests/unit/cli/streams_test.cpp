#include "cli/streams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

using namespace dstack;
using base::Code;

namespace {

struct Capture {
  std::ostringstream out;
  std::ostringstream err;
  cli::Streams streams{out, err};
};

}  // namespace

TEST(PrintError, TextNamesCodeCauseAndFix) {
  Capture capture;
  EXPECT_EQ(cli::print_error(capture.streams, {Code::bad_compose_file, "cannot read a", "line 3", "do that"}),
            1);
  EXPECT_EQ(capture.err.str(), "error[DS1501]: cannot read a: line 3\n  fix: do that\n");
  EXPECT_EQ(capture.out.str(), "");
}

TEST(PrintError, UsageHasItsOwnExitCode) {
  Capture capture;
  EXPECT_EQ(cli::print_error(capture.streams, {Code::usage, "what", "", ""}), 2);
  EXPECT_EQ(capture.err.str(), "error[DS2100]: what\n");
}

TEST(PrintError, ControlCharactersAreEscaped) {
  Capture capture;
  cli::print_error(capture.streams, {Code::io, "\x1b[2Jgone\r", "", "\x07"});
  EXPECT_EQ(capture.err.str().find('\x1b'), std::string::npos);
  EXPECT_EQ(capture.err.str().find('\r'), std::string::npos);
  EXPECT_EQ(capture.err.str().find('\x07'), std::string::npos);
}

TEST(PrintError, JsonIsOneObjectOnErr) {
  Capture capture;
  EXPECT_EQ(cli::print_error(capture.streams, {Code::io, "a \"b\" \xff", "c", "d"}, true), 1);
  const auto object = nlohmann::json::parse(capture.err.str());
  EXPECT_EQ(object["error"]["code"], "DS1001");
  EXPECT_EQ(object["error"]["cause"], "c");
  EXPECT_EQ(object["error"]["fix"], "d");
  EXPECT_EQ(capture.out.str(), "");
}

TEST(PrintError, ColorOnlyWhenAsked) {
  Capture capture;
  capture.streams.color = true;
  cli::print_error(capture.streams, {Code::io, "x", "", ""});
  EXPECT_NE(capture.err.str().find("\x1b[1;31m"), std::string::npos);
}
