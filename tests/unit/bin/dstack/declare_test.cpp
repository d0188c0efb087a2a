#include "bin/dstack/verbs.h"
#include "support/command_tree.h"

using namespace dstack;

namespace {

std::ostringstream g_out, g_err;
const cli::Streams g_streams{g_out, g_err};

std::unique_ptr<cli::Command> make() {
  static dstack_cli::Globals globals;
  auto program =
      std::make_unique<cli::Command>("dstack", "Deploy docker compose files into confidential VMs");
  dstack_cli::declare(*program, globals, g_streams);
  return program;
}

}  // namespace

TEST(Declare, EveryVerbIsDescribedAndHasAnExample) {
  test::expect_well_described(make);
}

TEST(Declare, HelpManPagesAndCompletionsHaveEveryVerbAndOption) {
  test::expect_complete_tables(make);
}
