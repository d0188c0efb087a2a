// A command line as data: what completions and man pages are made of, and what tests walk.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace dstack::cli {

// What may stand for an option's value.
struct Values {
  enum class Kind {
    none,  // a flag
    text,
    number,
    choice,  // one of `words`
    file,
    directory,
    dynamic,  // a line that "PROGRAM __complete WORD" prints
  };
  Kind kind = Kind::text;
  std::vector<std::string> words;

  static Values choice(std::vector<std::string> words) { return {Kind::choice, std::move(words)}; }
  static Values file() { return {Kind::file, {}}; }
  static Values directory() { return {Kind::directory, {}}; }
  static Values dynamic(std::string what) { return {Kind::dynamic, {std::move(what)}}; }
};

struct OptionDescription {
  std::vector<std::string> names;  // "-c", "--compose"; a positional argument has its one name
  std::string help;
  std::string default_text;  // "" = none to tell
  Values values;
  bool required = false;
  bool repeatable = false;

  bool positional() const { return !names.front().starts_with('-'); }
  bool takes_value() const { return values.kind != Values::Kind::none; }
};

// A program or a verb.
struct Description {
  std::string name;
  std::string help;
  std::vector<std::string> aliases;
  std::vector<OptionDescription> options;  // its own; those of its parents may be given too
  std::vector<std::string> examples;       // command lines
  std::vector<Description> verbs;          // without hidden ones
  bool acts = false;                       // can be called without one of its verbs
};

// A program or verb together with what leads to it.
struct DescribedVerb {
  std::string path;  // "image pull"; "" for the program
  const Description* verb = nullptr;
  std::vector<const OptionDescription*> options;  // its own, then its parents'
};
// The program and all verbs below it, parents first. Points into `program`.
std::vector<DescribedVerb> all_verbs(const Description& program);

}  // namespace dstack::cli
