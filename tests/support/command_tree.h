// What holds for the command line of every program of ours.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/completion.h"
#include "cli/man_page.h"

namespace dstack::test {

// A program as its main() declares it. The targets of its options may be anything that outlives it.
using MakeProgram = std::function<std::unique_ptr<cli::Command>()>;

inline std::vector<std::string> words_of(const std::string& line) {
  std::vector<std::string> out;
  std::istringstream text(line.substr(0, line.find('#')));
  for (std::string word; text >> word;) {
    out.push_back(word);
  }
  return out;
}

inline void expect_parses(const MakeProgram& make, const std::string& line) {
  const auto words = words_of(line);
  std::vector<const char*> argv;
  for (const auto& word : words) {
    argv.push_back(word.c_str());
  }
  EXPECT_EQ(make()->parse_error(static_cast<int>(argv.size()), argv.data()), "") << line;
}

// Every verb and option says what it is for; every verb that acts has an example that the parser takes.
inline void expect_well_described(const MakeProgram& make) {
  const auto program = make()->describe();
  for (const auto& [path, verb, options] : cli::all_verbs(program)) {
    SCOPED_TRACE(program.name + " " + path);
    EXPECT_GE(verb->help.size(), 5U);
    EXPECT_FALSE(verb->help.ends_with('.') && !path.empty()) << verb->help;
    EXPECT_TRUE(verb->acts || !verb->verbs.empty());
    EXPECT_TRUE(!verb->acts || !verb->examples.empty()) << "no example";
    bool own = verb->examples.empty();
    for (const auto& example : verb->examples) {
      own |= example.find(path.empty() ? program.name : program.name + " " + path) != std::string::npos;
      if (example.starts_with(program.name + " ") && example.find_first_of("<>|\"'") == std::string::npos) {
        expect_parses(make, example);
      }
    }
    EXPECT_TRUE(own) << "no example calls it by its name";
    for (const auto* option : options) {
      SCOPED_TRACE(option->names.back());
      EXPECT_GE(option->help.size(), 4U);
      EXPECT_FALSE(option->help.ends_with('.')) << option->help;
    }
  }
}

// Every verb and every option occurs in the help, the man pages and each shell's script.
inline void expect_complete_tables(const MakeProgram& make) {
  const auto program = make()->describe();
  const auto bash = cli::bash_completion(program);
  const auto zsh = cli::zsh_completion(program);
  const auto fish = cli::fish_completion(program);
  const auto pages = cli::man_pages(program);
  const auto verbs = cli::all_verbs(program);
  ASSERT_EQ(pages.size(), verbs.size());
  for (std::size_t i = 0; i < verbs.size(); ++i) {
    const auto& [path, verb, options] = verbs[i];
    SCOPED_TRACE(program.name + " " + path);
    const auto table = bash.find("    '" + path + "') verbs='");
    ASSERT_NE(table, std::string::npos);
    const auto entry = bash.substr(table, bash.find(";;", table) - table);
    EXPECT_NE(fish.find("_at \"" + path + "\"'"), std::string::npos);
    std::ostringstream out, err;
    auto fresh = make();
    const auto words = words_of(program.name + " " + path + " --help");
    std::vector<const char*> argv;
    for (const auto& word : words) {
      argv.push_back(word.c_str());
    }
    EXPECT_EQ(fresh->run(static_cast<int>(argv.size()), argv.data(), {out, err}), cli::k_exit_ok);
    for (const auto& child : verb->verbs) {
      EXPECT_NE(entry.find(child.name), std::string::npos) << child.name;
      EXPECT_NE(zsh.find("'" + child.name + ":"), std::string::npos) << child.name;
      EXPECT_NE(fish.find(" -a " + child.name + " "), std::string::npos) << child.name;
      EXPECT_NE(out.str().find(child.name), std::string::npos) << child.name;
    }
    for (const auto* option : options) {
      for (const auto& name : option->names) {
        SCOPED_TRACE(name);
        std::string escaped;
        for (const char c : name) {
          escaped += c == '-' ? "\\-" : std::string(1, c);
        }
        EXPECT_NE(pages[i].second.find(escaped + "\\fR"), std::string::npos);
        if (option->positional()) {
          continue;
        }
        EXPECT_NE((entry + " ").find(name), std::string::npos);
        EXPECT_NE(zsh.find(name + "["), std::string::npos);
        const auto form = name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
        EXPECT_NE(fish.find(form + " "), std::string::npos);
      }
    }
    for (const auto& option : verb->options) {
      EXPECT_NE(out.str().find(option.names.back()), std::string::npos) << option.names.back();
    }
  }
}

}  // namespace dstack::test
