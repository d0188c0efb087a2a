#include "cli/man_page.h"

#include <algorithm>
#include <cctype>

#include "base/format.h"
#include "base/fs.h"

namespace dstack::cli {
namespace {

// Text as roff shows it unchanged.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) {
      out += "\\&";
      out += c;
    } else {
      out += c;
    }
  }
  return out;
}

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

std::string dashed(std::string text) {
  std::ranges::replace(text, ' ', '-');
  return text;
}

std::string value_text(const OptionDescription& option) {
  switch (option.values.kind) {
    case Values::Kind::none:
      return "";
    case Values::Kind::number:
      return "N";
    case Values::Kind::file:
      return "FILE";
    case Values::Kind::directory:
      return "DIR";
    case Values::Kind::choice: {
      std::string out;
      for (const auto& word : option.values.words) {
        out += (out.empty() ? "" : "|") + word;
      }
      return out;
    }
    case Values::Kind::text:
    case Values::Kind::dynamic:
      break;
  }
  return "VALUE";
}

std::string option_entry(const OptionDescription& option) {
  std::string out = ".TP\n";
  if (option.positional()) {
    out += "\\fI" + escaped(option.names.front()) + "\\fR";
  } else {
    for (const auto& name : option.names) {
      out += (name == option.names.front() ? "\\fB" : ", \\fB") + escaped(name) + "\\fR";
    }
    if (option.takes_value()) {
      out += " \\fI" + escaped(value_text(option)) + "\\fR";
    }
  }
  out += "\n" + escaped(option.help);
  if (option.required) {
    out += " (required)";
  }
  if (option.repeatable && !option.positional()) {
    out += " (may be given several times)";
  }
  if (!option.default_text.empty()) {
    out += escaped(" [default: " + option.default_text + "]");
  }
  return out + "\n";
}

std::string synopsis(const std::string& command, const Description& verb) {
  std::string out = ".B " + escaped(command) + "\n";
  if (!verb.verbs.empty()) {
    out += verb.acts ? "[\\fIVERB\\fR]\n" : "\\fIVERB\\fR\n";
  }
  out += "[\\fIOPTIONS\\fR]\n";
  for (const auto& option : verb.options) {
    if (option.positional()) {
      const auto word = "\\fI" + escaped(option.names.front()) + (option.repeatable ? "\\fR..." : "\\fR");
      out += (option.required ? word : "[" + word + "]") + "\n";
    } else if (option.required) {
      out += "\\fB" + escaped(option.names.back()) + "\\fR \\fI" + escaped(value_text(option)) + "\\fR\n";
    }
  }
  return out;
}

std::string page(const std::string& program, const DescribedVerb& entry) {
  const auto command = entry.path.empty() ? program : program + " " + entry.path;
  const auto name = dashed(command);
  const auto& verb = *entry.verb;
  std::string out =
      base::format(".TH \"{}\" \"1\" \"\" \"dstack {}\" \"dstack\"\n", upper(escaped(name)), DSTACK_VERSION);
  out += ".SH NAME\n" + escaped(name) + " \\- " + escaped(verb.help) + "\n";
  out += ".SH SYNOPSIS\n" + synopsis(command, verb);
  if (!verb.aliases.empty()) {
    out += ".SH ALIASES\n";
    for (const auto& alias : verb.aliases) {
      out += ".B " + escaped(alias) + "\n";
    }
  }
  if (!verb.verbs.empty()) {
    out += ".SH VERBS\n";
    for (const auto& child : verb.verbs) {
      out +=
          ".TP\n\\fB" + escaped(dashed(name + " " + child.name)) + "\\fR(1)\n" + escaped(child.help) + "\n";
    }
  }
  if (!entry.options.empty()) {
    out += ".SH OPTIONS\n";
    for (const auto* option : entry.options) {
      out += option_entry(*option);
    }
  }
  out +=
      ".SH EXIT STATUS\n0 on success, 1 after an error, 2 when the command line is not understood.\n"
      "An error is printed on standard error with a stable code, its cause and what to do.\n";
  if (!verb.examples.empty()) {
    out += ".SH EXAMPLES\n.nf\n";
    for (const auto& example : verb.examples) {
      out += escaped(example) + "\n";
    }
    out += ".fi\n";
  }
  if (!entry.path.empty()) {
    const auto parent = entry.path.rfind(' ') == std::string::npos
                            ? program
                            : dashed(program + " " + entry.path.substr(0, entry.path.rfind(' ')));
    out += ".SH SEE ALSO\n\\fB" + escaped(parent) + "\\fR(1)\n";
  }
  return out;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> man_pages(const Description& program) {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& entry : all_verbs(program)) {
    const auto command = entry.path.empty() ? program.name : program.name + " " + entry.path;
    out.emplace_back(dashed(command) + ".1", page(program.name, entry));
  }
  return out;
}

base::Result<> write_man_pages(const Description& program, const std::filesystem::path& directory) {
  DS_CHECK(base::make_dirs(directory));
  for (const auto& [name, text] : man_pages(program)) {
    DS_CHECK(base::write_file_atomic(directory / name, text));
  }
  return {};
}

}  // namespace dstack::cli
