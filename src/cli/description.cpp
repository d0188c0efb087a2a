#include "cli/description.h"

namespace dstack::cli {
namespace {

void collect(const Description& verb, const std::string& path,
             const std::vector<const OptionDescription*>& inherited, std::vector<DescribedVerb>& out) {
  DescribedVerb entry{path, &verb, {}};
  for (const auto& option : verb.options) {
    entry.options.push_back(&option);
  }
  // --version is the program's alone: a verb may have another one.
  for (const auto* option : inherited) {
    if (option->names.back() != "--version" && option->names.back() != "--help") {
      entry.options.push_back(option);
    }
  }
  const auto options = entry.options;
  out.push_back(std::move(entry));
  for (const auto& child : verb.verbs) {
    collect(child, path.empty() ? child.name : path + " " + child.name, options, out);
  }
}

}  // namespace

std::vector<DescribedVerb> all_verbs(const Description& program) {
  std::vector<DescribedVerb> out;
  collect(program, "", {}, out);
  return out;
}

}  // namespace dstack::cli
