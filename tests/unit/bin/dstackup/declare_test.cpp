#include "bin/dstackup/verbs.h"
#include "host/platform.h"
#include "support/command_tree.h"

using namespace dstack;

namespace {

std::ostringstream g_out, g_err;
const cli::Streams g_streams{g_out, g_err};

std::unique_ptr<cli::Command> make() {
  auto program = std::make_unique<cli::Command>("dstackup", "set up, inspect and take down a dstack host");
  dstackup::declare(*program, g_streams);
  return program;
}

}  // namespace

TEST(Declare, EveryVerbIsDescribedAndHasAnExample) {
  test::expect_well_described(make);
}

TEST(Declare, HelpManPagesAndCompletionsHaveEveryVerbAndOption) {
  test::expect_complete_tables(make);
}

TEST(Declare, EveryPlatformOnOfferIsOne) {
  const auto program = make()->describe();
  for (const auto& [path, verb, options] : cli::all_verbs(program)) {
    for (const auto& option : verb->options) {
      if (option.names.back() == "--platform") {
        EXPECT_FALSE(option.values.words.empty());
        for (const auto& word : option.values.words) {
          EXPECT_TRUE(host::parse_platform(word)) << word;
        }
      }
    }
  }
}
