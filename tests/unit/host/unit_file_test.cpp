#include "host/unit_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "base/fs.h"
#include "base/process.h"
#include "host/render.h"
#include "unit/temp_dir.h"

namespace dstack::host {
namespace {

using testing::HasSubstr;
using testing::Not;

const std::filesystem::path k_packaging = std::filesystem::path(DSTACK_SOURCE_DIR) / "packaging/systemd";

ServiceSpec auth() {
  const auto layout = *Layout::make(std::nullopt);
  return auth_service(layout, "dstack-auth", layout.bin / "dstack-auth", 8001);
}
ServiceSpec vmm() {
  const auto layout = *Layout::make(std::nullopt);
  return vmm_service(layout, "dstack-vmm", "dstack-auth", layout.bin / "dstack-vmm");
}

std::string line_of(const ServiceSpec& spec, std::string_view key) {
  const auto text = render_unit(spec);
  EXPECT_TRUE(text) << text.error().what();
  const auto start = text->find("\n" + std::string(key) + "=");
  return start == std::string::npos ? "" : text->substr(start + 1, text->find('\n', start + 1) - start - 1);
}

// Runs systemd-analyze over unit files of these services; nullopt where it is not installed.
std::optional<base::Output> analyze(std::vector<std::string> words,
                                    const std::vector<ServiceSpec>& services) {
  if (!base::find_tool("systemd-analyze")) {
    return std::nullopt;
  }
  const test::TempDir directory;
  words.insert(words.begin(), "systemd-analyze");
  for (const auto& service : services) {
    const auto path = directory / (service.name + ".service");
    std::ofstream(path) << *render_unit(service);
    words.push_back(path.string());
  }
  base::Command command;
  command.argv = words;
  command.environment = {"SYSTEMD_LOG_LEVEL=warning"};
  const auto output = base::run(command);
  EXPECT_TRUE(output);
  return *output;
}

}  // namespace

// The text of both units as a system-wide install writes them. After a wanted change: DSTACK_WRITE_GOLDEN=1.
TEST(UnitFile, TheUnitsOfTheSystemLayout) {
  for (const auto& spec : {auth(), vmm()}) {
    const auto text = render_unit(spec);
    ASSERT_TRUE(text) << text.error().what();
    const auto golden = k_packaging / (spec.name + ".service");
    if (std::getenv("DSTACK_WRITE_GOLDEN") != nullptr) {
      std::ofstream(golden) << *text;
    }
    EXPECT_EQ(*text, base::read_file(golden).value_or("missing: " + golden.string()));
  }
}

TEST(UnitFile, ExposureIsLow) {
  for (const auto& [spec, threshold] : {std::pair(auth(), "15"), std::pair(vmm(), "20")}) {
    const auto output =
        analyze({"security", "--offline=yes", "--no-pager", std::string("--threshold=") + threshold}, {spec});
    if (!output) {
      GTEST_SKIP() << "systemd-analyze is not installed";
    }
    EXPECT_EQ(output->exit_code, 0) << output->out << output->err;
  }
  auto bare = auth();
  bare.sandbox = Sandbox::none;
  EXPECT_NE(analyze({"security", "--offline=yes", "--no-pager", "--threshold=20"}, {bare})->exit_code, 0)
      << "the threshold finds nothing";
}

TEST(UnitFile, EachServiceHasLimits) {
  EXPECT_EQ(line_of(auth(), "MemoryMax"), "MemoryMax=268435456");
  EXPECT_EQ(line_of(auth(), "TasksMax"), "TasksMax=64");
  EXPECT_EQ(line_of(vmm(), "MemoryMax"), "MemoryMax=1073741824");
  EXPECT_EQ(line_of(vmm(), "TasksMax"), "TasksMax=512");
  auto unlimited = auth();
  unlimited.memory_max = 0;
  unlimited.tasks_max = 0;
  EXPECT_EQ(line_of(unlimited, "MemoryMax"), "");
  EXPECT_EQ(line_of(unlimited, "TasksMax"), "");
}

TEST(UnitFile, SystemdFindsNothingToSay) {
  auto first = auth();
  auto second = vmm();
  // It wants programs that exist.
  first.argv.front() = "/bin/true";
  second.argv = {"/bin/true", "%n $HOME \"'\\ ;", ";", "\x01\n", ""};
  second.environment = {"A=%h \"\\ '", "B=$C"};
  second.directory = "/srv/a b%n \"x' \\y";
  second.writable_paths = {"/srv/a b%n \"x' \\y", "/home/some one/\"%h\"", "/run/dstack"};
  second.readable_paths = {"/root/a:b \\c", "/tmp/x\"y"};
  const auto output = analyze({"verify", "--man=no"}, {first, second});
  if (!output) {
    GTEST_SKIP() << "systemd-analyze is not installed";
  }
  // Unknown keys and bad values are only warnings to it. It loads the machine's own units, too.
  EXPECT_THAT(output->err, Not(HasSubstr("dstack-"))) << output->err;
  EXPECT_EQ(output->exit_code, 0) << output->err;

  ServiceSpec broken = first;
  broken.description = "a\\b";
  broken.argv.front() = "/nonexistent";
  EXPECT_THAT(analyze({"verify", "--man=no"}, {broken})->err, HasSubstr("dstack-auth"))
      << "this test would not notice";
}

TEST(UnitFile, WordsAreQuoted) {
  EXPECT_EQ(*quote_unit_word("plain"), "\"plain\"");
  EXPECT_EQ(*quote_unit_word(""), "\"\"");
  EXPECT_EQ(*quote_unit_word("a%b"), "\"a%%b\"");
  EXPECT_EQ(*quote_unit_word("a\"b\\c"), "\"a\\\"b\\\\c\"");
  EXPECT_EQ(*quote_unit_word("a\nb\rc\td"), "\"a\\nb\\rc\\td\"");
  EXPECT_EQ(*quote_unit_word("\x01\x7f"), "\"\\x01\\x7f\"");
  EXPECT_EQ(*quote_unit_word("$A 'b' \xc3\xa4"), "\"$A 'b' \xc3\xa4\"");
  for (const std::string& bad : {std::string("a\0b", 3), std::string("\xff"), std::string("\xc0\x80"),
                                 std::string("\xed\xa0\x80"), std::string("a\xe2\x82")}) {
    EXPECT_EQ(quote_unit_word(bad).error().code, base::Code::invalid_argument);
  }
}

TEST(UnitFile, ValuesThatSystemdWouldReadDifferentlyAreRefused) {
  EXPECT_EQ(*plain_unit_value("/a b%n \"c' \\d"), "/a b%%n \"c' \\d");
  for (const char* bad : {"", " a", "a ", "a\\", "a\nExecStartPre=/bin/evil", "a\tb", "\xff"}) {
    EXPECT_FALSE(plain_unit_value(bad)) << bad;
  }
}

TEST(UnitFile, NoFieldCanInjectALine) {
  const std::string evil = "x\n[Service]\nExecStartPre=/bin/evil\n#";
  const auto count = [](const ServiceSpec& spec) {
    const auto text = render_unit(spec);
    if (!text) {
      return std::string("refused");
    }
    return text->find("\nExecStartPre") == std::string::npos ? std::string("escaped") : *text;
  };
  auto spec = vmm();
  spec.description = evil;
  EXPECT_EQ(count(spec), "refused");
  spec = vmm();
  spec.directory = "/" + evil;
  EXPECT_EQ(count(spec), "refused");
  spec = vmm();
  spec.after = {evil};
  EXPECT_EQ(count(spec), "refused");
  spec = vmm();
  spec.name = evil;
  EXPECT_EQ(count(spec), "refused");
  spec = vmm();
  spec.writable_paths = {"/" + evil};
  EXPECT_EQ(count(spec), "refused");
  spec = vmm();
  spec.readable_paths = {"/tmp/" + evil};
  EXPECT_EQ(count(spec), "refused");
  spec = vmm();
  spec.argv[0] = "/" + evil;
  EXPECT_EQ(count(spec), "refused");
  spec = vmm();
  spec.argv.push_back(evil);
  EXPECT_EQ(count(spec), "escaped");
  spec = vmm();
  spec.environment = {"A=" + evil};
  EXPECT_EQ(count(spec), "escaped");
}

TEST(UnitFile, Programs) {
  auto spec = auth();
  spec.argv = {"/opt/a %b$c/x", "$HOME", ""};
  EXPECT_EQ(line_of(spec, "ExecStart"), R"(ExecStart=":/opt/a %%b$c/x" "$HOME" "")");
  for (const char* bad : {"", "relative", "-/x", "/a\"b", "/a'b", "/a\\b", "/a\nb"}) {
    spec.argv[0] = bad;
    EXPECT_FALSE(render_unit(spec)) << bad;
  }
  spec.argv.clear();
  EXPECT_FALSE(render_unit(spec));
}

TEST(UnitFile, LimitsAndTimes) {
  auto spec = auth();
  spec.start_timeout = std::chrono::milliseconds(1500);
  spec.start_limit = 7;
  EXPECT_EQ(line_of(spec, "TimeoutStartSec"), "TimeoutStartSec=1500ms");
  EXPECT_EQ(line_of(spec, "StartLimitBurst"), "StartLimitBurst=7");
  EXPECT_EQ(line_of(spec, "Restart"), "Restart=always");
  EXPECT_EQ(line_of(spec, "Type"), "Type=notify");
}

TEST(UnitFile, HiddenDirectoriesShowWhatIsNeeded) {
  auto spec = vmm();
  spec.argv[0] = "/root/src/build/bin/dstack-vmm";
  spec.writable_paths = {"/tmp/prefix/state", "/srv/state", "/run/dstack"};
  spec.readable_paths = {"/tmp/prefix/state/etc", "/tmp/prefix/etc", "/srv/etc"};
  const auto text = *render_unit(spec);
  EXPECT_THAT(text, HasSubstr("ProtectHome=tmpfs\n"));
  EXPECT_THAT(text, HasSubstr("BindPaths=\"-/tmp/prefix/state\"\n"));
  EXPECT_THAT(text, HasSubstr("ReadWritePaths=\"-/srv/state\"\n"));
  EXPECT_THAT(text, HasSubstr("RuntimeDirectory=dstack\n"));
  EXPECT_THAT(text, HasSubstr("BindReadOnlyPaths=\"-/tmp/prefix/etc\"\n"));
  EXPECT_THAT(text, HasSubstr("BindReadOnlyPaths=\"-/root/src/build/bin\"\n"));
  EXPECT_THAT(text, Not(HasSubstr("state/etc"))) << "would make a part of the writable directory read-only";
  EXPECT_THAT(text, Not(HasSubstr("/srv/etc")));
  EXPECT_EQ(line_of(vmm(), "ProtectHome"), "ProtectHome=yes");
}

TEST(UnitFile, Names) {
  for (const char* good : {"dstack-vmm", "a", "dstack-auth-x_1.2", "9"}) {
    EXPECT_TRUE(check_unit_name(good)) << good;
  }
  for (const auto& bad :
       {std::string(), std::string("a b"), std::string("a/b"), std::string("-a"), std::string(".a"),
        std::string("a@b"), std::string("a%"), std::string("\xc3\xa4"), std::string(201, 'a')}) {
    EXPECT_EQ(check_unit_name(bad).error().code, base::Code::invalid_argument) << bad;
  }
}

}  // namespace dstack::host
