#include "cli/completion.h"

#include <algorithm>
#include <memory>
#include <ostream>

#include "base/format.h"

namespace dstack::cli {
namespace {

using base::format;

std::string replace_all(std::string text, std::string_view what, std::string_view with) {
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) {
    text.replace(at, what.size(), with);
  }
  return text;
}

// The program's name as part of a shell function's.
std::string identifier(std::string text) {
  std::ranges::replace_if(text, [](char c) { return c == '-' || c == ' '; }, '_');
  return text;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& word : words) {
    out += (out.empty() ? "" : " ") + word;
  }
  return out;
}

// Names and aliases of a verb.
std::vector<std::string> names_of(const Description& verb) {
  std::vector<std::string> out{verb.name};
  out.insert(out.end(), verb.aliases.begin(), verb.aliases.end());
  return out;
}

std::string child_path(const std::string& path, const Description& verb) {
  return path.empty() ? verb.name : path + " " + verb.name;
}

// The values of the positional arguments; verbs have one kind of them.
const Values* positional_values(const DescribedVerb& entry) {
  for (const auto* option : entry.options) {
    if (option->positional()) {
      return &option->values;
    }
  }
  return nullptr;
}

// ---- bash ----

std::string bash_values(const Values& values) {
  switch (values.kind) {
    case Values::Kind::choice:
      return format("mapfile -t COMPREPLY < <(compgen -W '{}' -- \"$cur\")", joined(values.words));
    case Values::Kind::file:
      return "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")";
    case Values::Kind::directory:
      return "compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- \"$cur\")";
    case Values::Kind::dynamic:
      return "dynamic=" + values.words.front();
    default:
      return ":";
  }
}

// One `case` entry per verb.
std::string bash_tables(const std::vector<DescribedVerb>& verbs) {
  std::string out;
  for (const auto& entry : verbs) {
    std::vector<std::string> children, flags, valued;
    for (const auto& child : entry.verb->verbs) {
      children.push_back(child.name);
    }
    for (const auto* option : entry.options) {
      if (!option->positional()) {
        flags.insert(flags.end(), option->names.begin(), option->names.end());
        if (option->takes_value()) {
          valued.insert(valued.end(), option->names.begin(), option->names.end());
        }
      }
    }
    out += format("    '{}') verbs='{}' flags='{}' valued=' {} ' ;;\n", entry.path, joined(children),
                  joined(flags), joined(valued));
  }
  return out;
}

std::string bash_steps(const std::vector<DescribedVerb>& verbs) {
  std::string out;
  for (const auto& entry : verbs) {
    for (const auto& child : entry.verb->verbs) {
      std::string patterns;
      for (const auto& name : names_of(child)) {
        patterns += format("{}'{} {}'", patterns.empty() ? "" : "|", entry.path, name);
      }
      out += format("      {}) path='{}'; {} ;;\n", patterns, child_path(entry.path, child), "@TABLE@");
    }
  }
  return out;
}

std::string bash_option_values(const std::vector<DescribedVerb>& verbs) {
  std::string out;
  for (const auto& entry : verbs) {
    for (const auto* option : entry.options) {
      if (option->positional() || !option->takes_value() || option->values.kind == Values::Kind::text ||
          option->values.kind == Values::Kind::number) {
        continue;
      }
      std::string patterns;
      for (const auto& name : option->names) {
        patterns += format("{}'{} {}'", patterns.empty() ? "" : "|", entry.path, name);
      }
      out += format("      {}) {} ;;\n", patterns, bash_values(option->values));
    }
  }
  return out;
}

std::string bash_positionals(const std::vector<DescribedVerb>& verbs) {
  std::string out;
  for (const auto& entry : verbs) {
    if (const auto* values = positional_values(entry)) {
      out += format("      '{}') {} ;;\n", entry.path, bash_values(*values));
    }
  }
  return out;
}

// What `PROGRAM __complete` prints is compared as text: "compgen -W" would expand it like a command line.
constexpr std::string_view k_bash =
    R"bash(# bash completion for @PROGRAM@; made by "@PROGRAM@ completion bash"
_@ID@_table() {
  case $1 in
@TABLES@  esac
}
_@ID@() {
  local cur=${COMP_WORDS[COMP_CWORD]} path='' wants='' dynamic='' verbs flags valued word i
  local -a where=()
  COMPREPLY=()
  # "--option=value" arrives as three words.
  [[ $cur == '=' ]] && cur=
  _@ID@_table ''
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    [[ $word == '=' ]] && continue
    if [[ -n $wants ]]; then
      [[ $wants == --prefix ]] && where=(--prefix "$word")
      wants=
      continue
    fi
    if [[ $word == -* ]]; then
      [[ $valued == *" $word "* ]] && wants=$word
      continue
    fi
    case "$path $word" in
@STEPS@    esac
  done
  if [[ -n $wants ]]; then
    case "$path $wants" in
@VALUES@      *) : ;;
    esac
  elif [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
  elif [[ -n $verbs ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$verbs" -- "$cur")
  else
    case $path in
@POSITIONALS@      *) : ;;
    esac
  fi
  if [[ -n $dynamic ]]; then
    while IFS= read -r word; do
      [[ $word == "$cur"* ]] && COMPREPLY+=("$(printf %q "$word")")
    done < <("${COMP_WORDS[0]}" __complete "$dynamic" "${where[@]}" 2>/dev/null)
  fi
}
complete -F _@ID@ @PROGRAM@
)bash";

// ---- zsh ----

// Inside '...' of an _arguments specification.
std::string zsh_text(std::string text) {
  text = replace_all(std::move(text), "'", "'\\''");
  text = replace_all(std::move(text), "[", "\\[");
  text = replace_all(std::move(text), "]", "\\]");
  return replace_all(std::move(text), ":", "\\:");
}

std::string zsh_action(const std::string& id, const Values& values) {
  switch (values.kind) {
    case Values::Kind::choice:
      return "(" + joined(values.words) + ")";
    case Values::Kind::file:
      return "_files";
    case Values::Kind::directory:
      return "_files -/";
    case Values::Kind::dynamic:
      return format("_{}_dynamic {}", id, values.words.front());
    default:
      return " ";
  }
}

std::string zsh_option(const std::string& id, const OptionDescription& option) {
  std::string out;
  for (const auto& name : option.names) {
    // A repeatable one stays on offer; else one name excludes the others.
    const std::string head = option.repeatable         ? "*"
                             : option.names.size() > 1 ? "(" + joined(option.names) + ")"
                                                       : "";
    out += format("    '{}{}[{}]", head, name, zsh_text(option.help));
    if (option.takes_value()) {
      out += format(":value:{}", zsh_action(id, option.values));
    }
    out += "' \\\n";
  }
  return out;
}

std::string zsh_function(const std::string& id, const DescribedVerb& entry) {
  const auto name = "_" + id + (entry.path.empty() ? "" : "_verb_" + identifier(entry.path));
  const bool group = !entry.verb->verbs.empty();
  std::string out = name + "() {\n";
  if (group) {
    out += "  local curcontext=\"$curcontext\" state line\n  local -a verbs\n";
  }
  out += group ? "  _arguments -C -S \\\n" : "  _arguments -S \\\n";
  for (const auto* option : entry.options) {
    if (!option->positional()) {
      out += zsh_option(id, *option);
    } else if (!group) {
      out += format("    '{}:{}:{}' \\\n", option->repeatable ? "*" : "", zsh_text(option->names.front()),
                    zsh_action(id, option->values));
    }
  }
  if (!group) {
    return out + "    && return\n}\n";
  }
  out += "    '1: :->verb' '*:: :->rest' && return\n  case $state in\n    verb)\n      verbs=(\n";
  for (const auto& child : entry.verb->verbs) {
    for (const auto& verb : names_of(child)) {
      out += format("        '{}:{}'\n", verb, zsh_text(child.help));
    }
  }
  out += "      )\n      _describe -t verbs verb verbs ;;\n    rest)\n      case $line[1] in\n";
  for (const auto& child : entry.verb->verbs) {
    std::string patterns;
    for (const auto& verb : names_of(child)) {
      patterns += (patterns.empty() ? "" : "|") + verb;
    }
    out += format("        {}) _{}_verb_{} ;;\n", patterns, id, identifier(child_path(entry.path, child)));
  }
  return out + "      esac ;;\n  esac\n}\n";
}

// ---- fish ----

std::string fish_text(std::string text) {
  text = replace_all(std::move(text), "\\", "\\\\");
  return "'" + replace_all(std::move(text), "'", "\\'") + "'";
}

std::string fish_values(const std::string& program, const Values& values) {
  switch (values.kind) {
    case Values::Kind::choice:
      return " -x -a " + fish_text(joined(values.words));
    case Values::Kind::file:
      return " -r -F";
    case Values::Kind::directory:
      return " -x -a '(__fish_complete_directories)'";
    case Values::Kind::dynamic:
      return format(" -x -a '({} __complete {} 2>/dev/null)'", program, values.words.front());
    default:
      return " -x";
  }
}

std::string fish_option(const OptionDescription& option) {
  std::string out;
  for (const auto& name : option.names) {
    out += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
  }
  return out;
}

std::string fish_entry(const std::string& program, const std::string& id, const DescribedVerb& entry) {
  const auto head = format("complete -c {} -n '__{}_at \"{}\"'", program, id, entry.path);
  std::string out;
  for (const auto& child : entry.verb->verbs) {
    out += format("{} -f -a {} -d {}\n", head, child.name, fish_text(child.help));
  }
  for (const auto* option : entry.options) {
    if (option->positional()) {
      const bool files =
          option->values.kind == Values::Kind::file || option->values.kind == Values::Kind::text;
      out += files ? head + " -F\n" : head + fish_values(program, option->values) + "\n";
      continue;
    }
    out += head + fish_option(*option) +
           (option->takes_value() ? fish_values(program, option->values) : " -f") + " -d " +
           fish_text(option->help) + "\n";
  }
  return out;
}

int print(const Command& program, const std::string& shell, const Streams& streams) {
  const auto description = program.describe();
  if (shell == "bash") {
    streams.out << bash_completion(description);
  } else if (shell == "zsh") {
    streams.out << zsh_completion(description);
  } else if (shell == "fish") {
    streams.out << fish_completion(description);
  } else {
    return print_error(
        streams,
        {base::Code::usage, format("'{}' is not a shell we know", shell), {}, "choose bash, zsh or fish"});
  }
  streams.out.flush();
  return k_exit_ok;
}

}  // namespace

std::string bash_completion(const Description& program) {
  const auto verbs = all_verbs(program);
  std::string out(k_bash);
  out = replace_all(std::move(out), "@TABLES@", bash_tables(verbs));
  out = replace_all(std::move(out), "@STEPS@", bash_steps(verbs));
  out = replace_all(std::move(out), "@VALUES@", bash_option_values(verbs));
  out = replace_all(std::move(out), "@POSITIONALS@", bash_positionals(verbs));
  out = replace_all(std::move(out), "@TABLE@", "_@ID@_table \"$path\"");
  out = replace_all(std::move(out), "@ID@", identifier(program.name));
  return replace_all(std::move(out), "@PROGRAM@", program.name);
}

std::string zsh_completion(const Description& program) {
  const auto id = identifier(program.name);
  std::string out =
      format("#compdef {0}\n# zsh completion for {0}; made by \"{0} completion zsh\"\n", program.name);
  // compadd takes the lines as they are.
  out += format(
      "_{0}_dynamic() {{\n  local -a found\n  found=(\"${{(@f)$({1} __complete $1 2>/dev/null)}}\")\n"
      "  [[ -n $found ]] && compadd -a found\n}}\n",
      id, program.name);
  for (const auto& entry : all_verbs(program)) {
    out += zsh_function(id, entry);
  }
  // Both as a file in $fpath and through eval.
  return out + format("if [[ $funcstack[1] == _{0} ]]; then\n  _{0} \"$@\"\nelse\n  compdef _{0} {1}\nfi\n",
                      id, program.name);
}

std::string fish_completion(const Description& program) {
  const auto id = identifier(program.name);
  const auto verbs = all_verbs(program);
  std::string out = format("# fish completion for {0}; made by \"{0} completion fish\"\n", program.name);
  out += format(
      "function __{}_at\n  set -l path ''\n  set -l skip 0\n  for word in (commandline -opc)[2..-1]\n"
      "    if test $skip = 1\n      set skip 0\n      continue\n    end\n    switch \"$path $word\"\n",
      id);
  for (const auto& entry : verbs) {
    for (const auto& child : entry.verb->verbs) {
      std::string patterns;
      for (const auto& name : names_of(child)) {
        patterns += format(" '{} {}'", entry.path, name);
      }
      out += format("      case{}\n        set path '{}'\n", patterns, child_path(entry.path, child));
    }
    std::string valued;
    for (const auto* option : entry.options) {
      if (!option->positional() && option->takes_value()) {
        for (const auto& name : option->names) {
          valued += format(" '{} {}'", entry.path, name);
        }
      }
    }
    if (!valued.empty()) {
      out += format("      case{}\n        set skip 1\n", valued);
    }
  }
  out += "    end\n  end\n  test \"$path\" = \"$argv[1]\"\nend\n";
  out += format("complete -c {} -f\n", program.name);
  for (const auto& entry : verbs) {
    out += fish_entry(program.name, id, entry);
  }
  return out;
}

void add_completion(Command& program, const Streams& streams) {
  const auto shell = std::make_shared<std::string>();
  const auto name = program.describe().name;
  auto& verb = program.verb("completion", "print a completion script for a shell");
  verb.option("SHELL", *shell, "bash, zsh or fish");
  verb.require("SHELL");
  verb.values("SHELL", Values::choice({"bash", "zsh", "fish"}));
  verb.examples(
      format("source <({0} completion bash)\n"
             "{0} completion zsh > /usr/local/share/zsh/site-functions/_{0}\n"
             "{0} completion fish > ~/.config/fish/completions/{0}.fish",
             name));
  verb.action([&program, shell, &streams] { return print(program, *shell, streams); });
}

}  // namespace dstack::cli
