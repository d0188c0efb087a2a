// The command line: options, verbs, help. CLI11 inside, kept out of the callers' compile time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/description.h"
#include "cli/streams.h"

namespace dstack::cli {

// A program or one of its verbs. References given to flag() and option() must outlive run(). `names` are
// CLI11's: "-c,--compose"; a name without dashes is positional. The value a target holds is the default;
// default_text adds "[default: ...]" to the help.
//
//   cli::Command program("dstack", "deploy and look after apps");
//   program.flag("-j,--json", json, "print JSON on stdout");
//   auto& apps = program.verb("apps", "list apps", {"ls"});
//   apps.examples("dstack apps\ndstack apps --json");
//   apps.action([&] { return run_apps(...); });
//   return program.run(argc, argv, cli::Streams::standard());
class Command {
 public:
  Command(std::string name, std::string description);
  ~Command();
  Command(const Command&) = delete;
  Command& operator=(const Command&) = delete;

  // A verb; aliases work like the name. Verbs nest. Options of the parents may be given after the verb.
  Command& verb(const std::string& name, const std::string& description,
                std::vector<std::string> aliases = {});

  void flag(const std::string& names, bool& target, const std::string& help);
  // A flag that may carry a value, "--wait" or "--wait=60"; `implied` is what it means without one.
  void flag(const std::string& name, std::optional<std::string>& target, const std::string& implied,
            const std::string& help);
  void option(const std::string& names, std::string& target, const std::string& help,
              const std::string& default_text = {});
  void option(const std::string& names, std::optional<std::string>& target, const std::string& help,
              const std::string& default_text = {});
  // Decimal digits only; out of the type's range is a usage error.
  void option(const std::string& names, std::uint16_t& target, const std::string& help,
              const std::string& default_text = {});
  void option(const std::string& names, std::optional<std::uint16_t>& target, const std::string& help,
              const std::string& default_text = {});
  void option(const std::string& names, std::uint32_t& target, const std::string& help,
              const std::string& default_text = {});
  // May be given several times, one value each.
  void option(const std::string& names, std::vector<std::string>& target, const std::string& help);

  // The option `name` ("--compose", "ID") must be given.
  void require(const std::string& name);
  // The options `a` and `b` exclude each other.
  void exclude(const std::string& a, const std::string& b);
  // The option `a` means nothing without `b`.
  void need(const std::string& a, const std::string& b);
  // The value of `name` must be one of these words; completions offer them.
  void choose(const std::string& name, std::vector<std::string> words);

  // For the program only: its option `name` means something for these verbs ("status", "image pull"), which
  // may come before or after it; with others it is a usage error.
  void only_for(const std::string& name, std::vector<std::string> verbs);

  // What may stand for the value of the option `name`, for completions. Without it: text or a number, and a
  // directory for --prefix and all names that end in "-dir", a number for those in "-port".
  void values(const std::string& name, Values values);

  // Shown below the options in --help, one command per line.
  void examples(const std::string& text);
  // Not in --help, completions and man pages.
  void hide();
  // What the verb does; its result is the exit code.
  void action(std::function<int()> function);

  // For the program only: parses, prints --help and --version (k_exit_ok) or a usage error (k_exit_usage),
  // else runs the action of the verb. A program with verbs called without one prints its help on `err`.
  // `PROGRAM __man DIRECTORY` writes the man pages.
  int run(int argc, const char* const* argv, const Streams& streams);
  // Only parses: what is wrong with the command line, "" for nothing.
  std::string parse_error(int argc, const char* const* argv);

  Description describe() const;

 private:
  struct Impl;
  explicit Command(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> m_impl;
};

}  // namespace dstack::cli
