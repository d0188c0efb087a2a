// House rules that a program can check: the direction of includes, no shells, heavy headers in few places,
// and the list of error codes in docs/errors.md.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "base/fs.h"
#include "base/result.h"

namespace fs = std::filesystem;

namespace {

const fs::path k_source = DSTACK_SOURCE_DIR;

// A module may include itself and those of a lower rank; the four services do not include each other.
const std::map<std::string, int> k_rank = {
    {"base", 0}, {"crypto", 1}, {"net", 2}, {"rpc", 3},   {"attest", 4}, {"app", 5}, {"host", 6},
    {"auth", 7}, {"vmm", 7},    {"kms", 7}, {"guest", 7}, {"client", 8}, {"cli", 9}, {"bin", 10}};

struct Line {
  fs::path file;
  std::size_t number;
  std::string text;
  std::string where() const { return fs::relative(file, k_source).string() + ":" + std::to_string(number); }
};

std::vector<fs::path> sources(const fs::path& root) {
  std::vector<fs::path> out;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    if (entry.path().extension() == ".h" || entry.path().extension() == ".cpp") {
      out.push_back(entry.path());
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<Line> lines_of(const fs::path& file) {
  const auto text = dstack::base::read_file(file);
  EXPECT_TRUE(text) << file;
  std::vector<Line> out;
  std::size_t start = 0;
  while (text && start < text->size()) {
    const auto end = std::min(text->find('\n', start), text->size());
    out.push_back({file, out.size() + 1, text->substr(start, end - start)});
    start = end + 1;
  }
  return out;
}

std::string module_of(const fs::path& file) {
  return fs::relative(file, k_source / "src").begin()->string();
}

}  // namespace

TEST(Structure, IncludesGoDownward) {
  const std::regex include(R"re(^\s*#\s*include\s*"([^"]+)")re");
  std::size_t seen = 0;
  for (const auto& file : sources(k_source / "src")) {
    const auto module = module_of(file);
    ASSERT_TRUE(k_rank.contains(module)) << "src/" << module << " has no place in the order of layers";
    for (const auto& line : lines_of(file)) {
      std::smatch match;
      if (!std::regex_search(line.text, match, include)) {
        continue;
      }
      ++seen;
      const auto target = fs::path(match[1].str()).begin()->string();
      if (target == "proto" || target == module) {
        continue;
      }
      if (!k_rank.contains(target)) {
        EXPECT_EQ(module, "bin") << line.where() << ": include from src/, not relative: " << match[1];
        continue;
      }
      EXPECT_LT(k_rank.at(target), k_rank.at(module))
          << line.where() << ": " << module << " must not include " << target;
    }
  }
  EXPECT_GT(seen, 20U) << "the test found almost no includes: it looks in the wrong place";
}

TEST(Structure, NothingIsRunThroughAShell) {
  const std::regex shell(R"re(\b(system|popen)\s*\(|"(/bin/)?(sh|bash)"\s*,\s*"-c")re");
  for (const auto& file : sources(k_source / "src")) {
    for (const auto& line : lines_of(file)) {
      EXPECT_FALSE(std::regex_search(line.text, shell)) << line.where() << ": " << line.text;
    }
  }
}

// Boost stays in src/net, and a header that pulls in Boost or all of nlohmann/json is seen by its own module
// only: each costs seconds in every unit that includes it.
TEST(Structure, HeavyHeadersStayInTheirPlaces) {
  std::set<std::string> heavy;
  for (const auto& file : sources(k_source / "src")) {
    for (const auto& line : lines_of(file)) {
      const bool boost = line.text.find("#include <boost/") != std::string::npos;
      if (boost) {
        EXPECT_EQ(module_of(file), "net") << line.where() << ": Boost belongs in src/net";
      }
      if (file.extension() == ".h" &&
          (boost || line.text.find("#include <nlohmann/json.hpp>") != std::string::npos)) {
        heavy.insert(fs::relative(file, k_source / "src").string());
      }
    }
  }
  for (const auto& file : sources(k_source / "src")) {
    for (const auto& line : lines_of(file)) {
      for (const auto& header : heavy) {
        if (line.text.find("#include \"" + header + "\"") != std::string::npos) {
          EXPECT_EQ(module_of(file), *fs::path(header).begin())
              << line.where() << ": " << header << " is heavy";
        }
      }
    }
  }
}

TEST(Structure, HeadersHaveAGuard) {
  for (const auto& file : sources(k_source / "src")) {
    if (file.extension() == ".h") {
      const auto text = dstack::base::read_file(file);
      ASSERT_TRUE(text);
      EXPECT_NE(text->find("#pragma once"), std::string::npos) << file;
    }
  }
}

TEST(Structure, EveryErrorCodeIsUniqueAndDocumented) {
  const auto documentation = dstack::base::read_file(k_source / "docs/errors.md");
  ASSERT_TRUE(documentation) << "docs/errors.md is missing";
  std::set<int> numbers;
#define DSTACK_CODE(name, number, meaning)                                                         \
  EXPECT_TRUE(numbers.insert(number).second) << "DS" << number << " is used twice";                \
  EXPECT_NE(documentation->find("| DS" + std::to_string(number) + " | " #name " | " meaning " |"), \
            std::string::npos)                                                                     \
      << "docs/errors.md lacks the line: | DS" << number << " | " #name " | " << meaning           \
      << " | (run ./dev docs)";
#include "base/codes.def"
#undef DSTACK_CODE
}
