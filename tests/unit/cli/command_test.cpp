#include "cli/command.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "base/format.h"

using namespace dstack;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

namespace {

class CommandTest : public testing::Test {
 protected:
  std::ostringstream m_out;
  std::ostringstream m_err;
  cli::Streams m_streams{m_out, m_err};

  bool m_json = false;
  std::string m_compose;
  std::optional<std::string> m_image;
  std::uint32_t m_memory = 2048;
  std::uint16_t m_port = 1;
  std::vector<std::string> m_ports;
  std::optional<std::string> m_wait;
  std::string m_ran;

  int run(std::vector<const char*> arguments) {
    cli::Command program("prog", "does things");
    program.flag("-j,--json", m_json, "print JSON");
    cli::Command& deploy = program.verb("deploy", "deploys", {"run"});
    deploy.option("-c,--compose", m_compose, "compose file");
    deploy.option("--image", m_image, "image");
    deploy.option("--memory", m_memory, "memory in MB", "2048");
    deploy.option("--number", m_port, "a port");
    deploy.option("--port", m_ports, "map a port");
    deploy.examples("prog deploy -c a\nprog run");
    deploy.action([&] {
      m_ran = "deploy";
      return 7;
    });
    cli::Command& info = program.verb("info", "shows");
    std::string id;
    info.option("ID", id, "the app");
    info.require("ID");
    info.flag("--wait", m_wait, "300", "wait for it");
    info.action([&] {
      m_ran = "info " + id;
      return 0;
    });
    cli::Command& image = program.verb("image", "images");
    image.verb("list", "lists").action([&] {
      m_ran = "image list";
      return 0;
    });
    arguments.insert(arguments.begin(), "prog");
    return program.run(static_cast<int>(arguments.size()), arguments.data(), m_streams);
  }
};

}  // namespace

TEST_F(CommandTest, AnOptionOfTheProgramMayBeForSomeVerbsOnly) {
  const auto run = [&](std::vector<const char*> arguments) {
    cli::Command program("prog", "does things");
    std::optional<std::string> host;
    program.option("--host", host, "for status");
    program.only_for("--host", {"status", "image pull"});
    std::string out;
    program.verb("status", "shows").action([&] { return 0; });
    program.verb("destroy", "removes").action([&] { return 0; });
    auto& image = program.verb("image", "images");
    image.verb("pull", "fetches").action([&] { return 0; });
    image.verb("list", "lists").action([&] { return 0; });
    arguments.insert(arguments.begin(), "prog");
    return program.run(static_cast<int>(arguments.size()), arguments.data(), m_streams);
  };
  EXPECT_EQ(run({"--host", "x", "status"}), 0);
  EXPECT_EQ(run({"status", "--host", "x"}), 0);
  EXPECT_EQ(run({"image", "pull", "--host", "x"}), 0);
  EXPECT_EQ(run({"destroy"}), 0);
  EXPECT_EQ(run({"destroy", "--host", "x"}), cli::k_exit_usage);
  EXPECT_THAT(m_err.str(), HasSubstr("--host: is for status and image pull"));
  EXPECT_EQ(run({"--host", "x", "image", "list"}), cli::k_exit_usage);
}

TEST_F(CommandTest, RunsTheVerbWithItsOptions) {
  EXPECT_EQ(run({"deploy", "-c", "file", "--port", "80", "--port", "1:2", "--memory", "512", "--image", "x"}),
            7);
  EXPECT_EQ(m_ran, "deploy");
  EXPECT_EQ(m_compose, "file");
  EXPECT_THAT(m_ports, ElementsAre("80", "1:2"));
  EXPECT_EQ(m_memory, 512U);
  EXPECT_EQ(m_image, "x");
}

TEST_F(CommandTest, AliasesAndGlobalOptionsAnywhere) {
  EXPECT_EQ(run({"run", "--json"}), 7);
  EXPECT_TRUE(m_json);
  EXPECT_EQ(m_memory, 2048U);
  m_json = false;
  EXPECT_EQ(run({"-j", "deploy"}), 7);
  EXPECT_TRUE(m_json);
}

TEST_F(CommandTest, VerbsNest) {
  EXPECT_EQ(run({"image", "list"}), 0);
  EXPECT_EQ(m_ran, "image list");
  EXPECT_EQ(run({"image"}), 2);
  EXPECT_THAT(m_err.str(), HasSubstr("list"));
}

TEST_F(CommandTest, HelpGoesToOutWithExamplesAndDefaults) {
  EXPECT_EQ(run({"deploy", "--help"}), 0);
  EXPECT_THAT(m_out.str(), HasSubstr("Examples:\n  prog deploy -c a\n  prog run"));
  EXPECT_THAT(m_out.str(), HasSubstr("[default: 2048]"));
  EXPECT_EQ(m_err.str(), "");
  EXPECT_EQ(m_ran, "");
  m_out.str("");
  EXPECT_EQ(run({"--help"}), 0);
  EXPECT_THAT(m_out.str(), HasSubstr("deploy"));
}

TEST_F(CommandTest, Version) {
  EXPECT_EQ(run({"--version"}), 0);
  EXPECT_EQ(m_out.str(), std::string(DSTACK_VERSION) + "\n");
}

TEST_F(CommandTest, UsageErrorsExitWithTwoAndNameTheHelp) {
  for (const std::vector<const char*>& bad : std::vector<std::vector<const char*>>{
           {"deploy", "--nonsense"},
           {"nonsense"},
           {"deploy", "--memory", "-5"},
           {"deploy", "--memory", "0x10"},
           {"deploy", "--memory", "4294967296"},
           {"deploy", "--number", "65536"},
           {"deploy", "--memory"},
           {"deploy", "extra"},
           {"info"},
       }) {
    m_err.str("");
    EXPECT_EQ(run(bad), 2) << bad.back();
    EXPECT_THAT(m_err.str(), HasSubstr("error[DS2100]: ")) << bad.back();
    EXPECT_THAT(m_err.str(), HasSubstr("fix: see \"prog")) << bad.back();
    EXPECT_EQ(m_out.str(), "");
    EXPECT_EQ(m_ran, "");
  }
  run({"deploy", "--nonsense"});
  EXPECT_THAT(m_err.str(), HasSubstr("prog deploy --help"));
}

TEST(CommandRules, OptionsThatMeanNothingTogetherAreErrors) {
  const auto error = [](std::vector<const char*> words) {
    std::string level;
    std::optional<std::uint16_t> port;
    bool kms = false;
    std::string explain;
    cli::Command program("prog", "a program");
    program.option("--level", level, "how much to say");
    program.choose("--level", {"low", "middle", "high"});
    program.option("--port", port, "where to listen", "80");
    program.option("--explain", explain, "say why");
    program.flag("--kms", kms, "of a KMS");
    program.need("--kms", "--explain");
    program.exclude("--port", "--explain");
    words.insert(words.begin(), "prog");
    auto text = program.parse_error(static_cast<int>(words.size()), words.data());
    return text.empty() ? base::format("level={} port={}", level, port ? std::to_string(*port) : "none")
                        : text;
  };
  EXPECT_EQ(error({}), "level= port=none");
  EXPECT_EQ(error({"--level", "high", "--port", "0"}), "level=high port=0");
  EXPECT_THAT(error({"--level", "zzz"}), HasSubstr("--level: \"zzz\" is none of its values: choose low, "));
  EXPECT_THAT(error({"--level", "zzz"}), HasSubstr("low, middle or high"));
  EXPECT_THAT(error({"--level", ""}), HasSubstr("is none of its values"));
  EXPECT_THAT(error({"--port", "65536"}), HasSubstr("is not a number from 0 to 65535"));
  EXPECT_EQ(error({"--kms"}), "--kms requires --explain");
  EXPECT_EQ(error({"--kms", "--explain", "x"}), "level= port=none");
  EXPECT_EQ(error({"--port", "1", "--explain", "x"}), "--port excludes --explain");
}

TEST(CommandRules, PortsAreNumbersInEveryHelp) {
  std::optional<std::string> text;
  std::optional<std::uint16_t> number;
  cli::Command program("prog", "a program");
  program.option("--kms-port", text, "port of the KMS");
  program.option("--port", number, "port");
  std::ostringstream out;
  std::ostringstream err;
  const char* words[] = {"prog", "--help"};
  EXPECT_EQ(program.run(2, words, {out, err}), 0);
  EXPECT_THAT(out.str(), HasSubstr("--kms-port N"));
  EXPECT_THAT(out.str(), HasSubstr("--port N"));
}

TEST_F(CommandTest, AFlagMayCarryAValue) {
  EXPECT_EQ(run({"info", "x"}), 0);
  EXPECT_EQ(m_wait, std::nullopt);
  EXPECT_EQ(run({"info", "--wait", "x"}), 0);
  EXPECT_EQ(m_wait, "300");
  EXPECT_EQ(m_ran, "info x") << "the word after it is not its value";
  EXPECT_EQ(run({"info", "--wait=60", "x"}), 0);
  EXPECT_EQ(m_wait, "60");
}

TEST_F(CommandTest, NoVerbPrintsHelpOnErr) {
  EXPECT_EQ(run({}), 2);
  EXPECT_EQ(m_out.str(), "");
  EXPECT_THAT(m_err.str(), HasSubstr("deploy"));
}
