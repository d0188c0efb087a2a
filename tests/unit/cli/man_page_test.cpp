#include "cli/man_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/fs.h"
#include "base/process.h"
#include "unit/temp_dir.h"

using namespace dstack;
using testing::HasSubstr;
using testing::Not;

namespace {

cli::Description example() {
  cli::Description program{"prog", "does things", {}, {}, {"prog image pull -f"}, {}, false};
  program.options.push_back({{"--prefix"}, "below this directory", "none", cli::Values::directory()});
  program.options.push_back({{"-h", "--help"}, "print this help", "", {cli::Values::Kind::none, {}}});
  cli::Description image{"image", "images", {}, {}, {}, {}, false};
  cli::Description pull{"pull", "fetch one", {"get"}, {}, {"prog image pull --version 1", ".hidden \\n"},
                        {},     true};
  pull.options.push_back({{"NAME"}, "the image", "", {}, true, true});
  pull.options.push_back({{"-f", "--force"}, "again", "", {cli::Values::Kind::none, {}}});
  pull.options.push_back({{"--kind"}, "which", "", cli::Values::choice({"a", "b"}), true});
  image.verbs.push_back(pull);
  program.verbs.push_back(image);
  return program;
}

}  // namespace

TEST(ManPage, OnePageForEachVerb) {
  const auto pages = cli::man_pages(example());
  ASSERT_EQ(pages.size(), 3U);
  EXPECT_EQ(pages[0].first, "prog.1");
  EXPECT_EQ(pages[1].first, "prog-image.1");
  EXPECT_EQ(pages[2].first, "prog-image-pull.1");
  EXPECT_THAT(pages[0].second, HasSubstr("\\fBprog\\-image\\fR(1)\nimages"));
  const auto& pull = pages[2].second;
  EXPECT_THAT(pull, HasSubstr("prog\\-image\\-pull \\- fetch one"));
  EXPECT_THAT(pull, HasSubstr(".B prog image pull\n[\\fIOPTIONS\\fR]\n\\fINAME\\fR...\n"));
  EXPECT_THAT(pull, HasSubstr("\\fB\\-\\-kind\\fR \\fIa|b\\fR\nwhich (required)"));
  EXPECT_THAT(pull, HasSubstr("\\fB\\-f\\fR, \\fB\\-\\-force\\fR\nagain"));
  EXPECT_THAT(pull, HasSubstr("\\fB\\-\\-prefix\\fR \\fIDIR\\fR\nbelow this directory [default: none]"));
  // Text that roff would take for a request or an escape.
  EXPECT_THAT(pull, HasSubstr("\n\\&.hidden \\en\n"));
  EXPECT_THAT(pull, HasSubstr(".SH SEE ALSO\n\\fBprog\\-image\\fR(1)"));
}

TEST(ManPage, ManReadsThem) {
  test::TempDir directory;
  ASSERT_TRUE(cli::write_man_pages(example(), directory / "man"));
  const auto page = (directory / "man/prog-image-pull.1").string();
  bool checked = false;
  if (base::find_tool("mandoc")) {
    const auto lint = base::run({.argv = {"mandoc", "-T", "lint", "-W", "error", page}});
    ASSERT_TRUE(lint);
    EXPECT_EQ(lint->exit_code, 0) << lint->out << lint->err;
    const auto text = base::run({.argv = {"mandoc", "-T", "ascii", page}});
    ASSERT_TRUE(text);
    EXPECT_THAT(text->out, HasSubstr(".hidden \\n"));
    checked = true;
  }
  if (base::find_tool("man") && base::find_tool("groff")) {
    const auto text = base::run(
        {.argv = {"man", "--warnings=all", "-l", page}, .environment = {"MANPAGER=cat", "MANWIDTH=80"}});
    ASSERT_TRUE(text);
    EXPECT_EQ(text->exit_code, 0) << text->err;
    EXPECT_EQ(text->err, "");
    checked = true;
  }
  if (!checked) {
    GTEST_SKIP() << "neither mandoc nor man is installed";
  }
}
