#include "cli/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "base/format.h"
#include "base/fs.h"
#include "base/process.h"
#include "cli/command.h"
#include "unit/temp_dir.h"

using namespace dstack;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

namespace {

// A program with every kind of option.
class CompletionTest : public testing::Test {
 protected:
  void SetUp() override {
    program.flag("-j,--json", flag, "print JSON");
    program.option("--prefix", text, "below this directory");
    auto& install = program.verb("install", "it's [set up]: all");
    install.option("--platform", text, "which", "auto");
    install.values("--platform", cli::Values::choice({"auto", "tdx", "simulated"}));
    install.option("--bin-dir", text, "programs");
    install.option("--port", number, "a port");
    auto& image = program.verb("image", "images");
    auto& pull = image.verb("pull", "fetch");
    pull.option("--version", text, "release");
    auto& rm = image.verb("rm", "remove", {"remove"});
    rm.option("NAME", list, "the image");
    rm.values("NAME", cli::Values::dynamic("images"));
    auto& deploy = program.verb("deploy", "deploy", {"run"});
    deploy.option("COMPOSE", text, "file");
    deploy.values("COMPOSE", cli::Values::file());
    deploy.option("-c,--compose", text, "file");
    deploy.values("--compose", cli::Values::file());
    auto& secret = program.verb("secret", "hidden");
    secret.hide();
    cli::add_completion(program, streams);
  }

  // What the shell offers for the last word. `line` is split at spaces.
  std::vector<std::string> complete(const std::string& line) const {
    base::Command command;
    const auto script = directory / "prog.bash";
    EXPECT_TRUE(base::write_file_atomic(script, cli::bash_completion(program.describe())));
    command.argv = {"bash",
                    "--norc",
                    "-c",
                    "source \"$1\"; shift; read -ra COMP_WORDS <<<\"$1\"; "
                    "[[ $1 == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); "
                    "compopt() { :; }; _prog; printf '%s\\n' \"${COMPREPLY[@]}\"",
                    "bash",
                    script.string(),
                    line};
    command.directory = directory.path().string();
    const auto output = base::run(command);
    EXPECT_TRUE(output);
    EXPECT_EQ(output->err, "");
    std::vector<std::string> found;
    std::istringstream lines(output->out);
    for (std::string word; std::getline(lines, word);) {
      if (!word.empty()) {
        found.push_back(word);
      }
    }
    return found;
  }

  bool flag = false;
  std::string text;
  std::uint16_t number = 0;
  std::vector<std::string> list;
  std::ostringstream out, err;
  cli::Streams streams{out, err};
  cli::Command program{"prog", "does things"};
  test::TempDir directory;
};

}  // namespace

TEST_F(CompletionTest, BashOffersVerbsFlagsAndValues) {
  EXPECT_THAT(complete("prog "), UnorderedElementsAre("install", "image", "deploy", "completion"));
  EXPECT_THAT(complete("prog im"), ElementsAre("image"));
  EXPECT_THAT(complete("prog image "), UnorderedElementsAre("pull", "rm"));
  EXPECT_THAT(complete("prog install --p"), UnorderedElementsAre("--platform", "--port", "--prefix"));
  EXPECT_THAT(complete("prog install --platform "), UnorderedElementsAre("auto", "tdx", "simulated"));
  EXPECT_THAT(complete("prog install --platform t"), ElementsAre("tdx"));
  // As readline splits it.
  EXPECT_THAT(complete("prog install --platform = t"), ElementsAre("tdx"));
  EXPECT_THAT(complete("prog install --platform ="), UnorderedElementsAre("auto", "tdx", "simulated"));
  EXPECT_THAT(complete("prog install --port "), IsEmpty());
  // The value of an option is no verb, and a verb's options end with it.
  EXPECT_THAT(complete("prog --prefix install im"), ElementsAre("image"));
  EXPECT_THAT(complete("prog image pull --v"), ElementsAre("--version"));
  EXPECT_THAT(complete("prog install --v"), IsEmpty());
  EXPECT_THAT(complete("prog --v"), ElementsAre("--version"));
  EXPECT_THAT(complete("prog sec"), IsEmpty());
  EXPECT_THAT(complete("prog completion "), UnorderedElementsAre("bash", "zsh", "fish"));
}

TEST_F(CompletionTest, BashOffersFilesAndDirectories) {
  ASSERT_TRUE(base::make_dirs(directory / "a dir"));
  ASSERT_TRUE(base::write_file_atomic(directory / "a file.yaml", ""));
  EXPECT_THAT(complete("prog run a"), UnorderedElementsAre("a dir", "a file.yaml"));
  EXPECT_THAT(complete("prog deploy -c a"), UnorderedElementsAre("a dir", "a file.yaml"));
  EXPECT_THAT(complete("prog install --bin-dir a"), ElementsAre("a dir"));
  EXPECT_THAT(complete("prog install --prefix a"), ElementsAre("a dir"));
}

TEST_F(CompletionTest, NamesFromTheHostAreNeverEvaluated) {
  const auto fake = directory / "prog";
  ASSERT_TRUE(base::write_file_atomic(fake,
                                      "#!/bin/sh\necho \"$@\" >> asked\n"
                                      "echo 'dstack-1'\necho '$(touch evil)'\necho 'x`touch evil`'\n",
                                      {.mode = 0755}));
  const auto found = complete(fake.string() + " image remove ");
  EXPECT_THAT(found, UnorderedElementsAre("dstack-1", "\\$\\(touch\\ evil\\)", "x\\`touch\\ evil\\`"));
  EXPECT_THAT(complete(fake.string() + " image rm d"), ElementsAre("dstack-1"));
  EXPECT_THAT(complete(fake.string() + " --prefix /x image rm d"), ElementsAre("dstack-1"));
  EXPECT_FALSE(std::filesystem::exists(directory / "evil"));
  EXPECT_EQ(base::read_file(directory / "asked"),
            "__complete images\n__complete images\n__complete images --prefix /x\n");
}

TEST_F(CompletionTest, ZshTakesTheScriptAndCompletes) {
  if (!base::find_tool("zsh")) {
    GTEST_SKIP() << "zsh is not installed";
  }
  const auto script = directory / "_prog";
  ASSERT_TRUE(base::write_file_atomic(script, cli::zsh_completion(program.describe())));
  // Types into a shell of its own on a pseudo terminal and shows what it says.
  ASSERT_TRUE(base::write_file_atomic(directory / "drive", R"(
zmodload zsh/zpty
zpty shell "TERM=dumb zsh -f -i"
zpty -w shell "PS1= ; unsetopt beep; autoload -U compinit; compinit -u -D; source $1; zstyle ':completion:*' list-prompt ''; echo re''ady"
zpty -r -m shell line '*ready*'
for words in "$@[2,-1]"; do
  zpty -w -n shell "$words"$'\t'
  sleep 0.4
  zpty -w -n shell $'\x15'"echo do""''""ne"$'\n'
  zpty -r -m shell line '*done*'
  print -r -- "$line"
done
zpty -d shell
)"));
  base::Command command;
  command.argv = {"zsh",           "-f",           (directory / "drive").string(),
                  script.string(), "prog image p", "prog install --platform si",
                  "prog inst"};
  command.timeout = std::chrono::seconds(30);
  const auto output = base::run(command);
  ASSERT_TRUE(output);
  EXPECT_THAT(output->out, HasSubstr("prog image pull"));
  EXPECT_THAT(output->out, HasSubstr("--platform simulated"));
  EXPECT_THAT(output->out, HasSubstr("prog install"));
  EXPECT_THAT(output->out, Not(HasSubstr("command not found")));
}

TEST_F(CompletionTest, FishTakesTheScriptAndCompletes) {
  if (!base::find_tool("fish")) {
    GTEST_SKIP() << "fish is not installed";
  }
  const auto script = directory / "prog.fish";
  ASSERT_TRUE(base::write_file_atomic(script, cli::fish_completion(program.describe())));
  const auto fish = [&](const std::string& line) {
    base::Command command;
    command.argv = {"fish", "--no-config", "-c",
                    base::format("source {}; complete -C '{}'", script.string(), line)};
    command.environment = {"HOME=" + directory.path().string(), "XDG_DATA_HOME=" + directory.path().string()};
    command.directory = directory.path().string();
    const auto output = base::run(command);
    EXPECT_TRUE(output);
    EXPECT_EQ(output->err, "");
    return output->out;
  };
  EXPECT_THAT(fish("prog "), HasSubstr("install\tit's [set up]: all"));
  EXPECT_THAT(fish("prog image "), AllOf(HasSubstr("pull"), HasSubstr("rm"), Not(HasSubstr("install"))));
  EXPECT_THAT(fish("prog install --platform "), AllOf(HasSubstr("tdx"), HasSubstr("simulated")));
  EXPECT_THAT(fish("prog image pull --"),
              AllOf(HasSubstr("--version"), HasSubstr("--prefix"), HasSubstr("--json")));
}

TEST_F(CompletionTest, TheVerbPrintsAScriptOrRefuses) {
  const char* good[] = {"prog", "completion", "fish"};
  EXPECT_EQ(program.run(3, good, streams), cli::k_exit_ok);
  EXPECT_THAT(out.str(), HasSubstr("complete -c prog"));
  const char* bad[] = {"prog", "completion", "csh"};
  EXPECT_EQ(program.run(3, bad, streams), cli::k_exit_usage);
  EXPECT_THAT(err.str(), HasSubstr("choose bash, zsh or fish"));
}
