#include "cli/command.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <limits>
#include <ostream>

#include "base/format.h"
#include "cli/man_page.h"

namespace dstack::cli {
namespace {

// Decimal digits in the range of T; CLI11's own conversion takes signs, octal and hex.
template <class T>
CLI::Validator decimal() {
  return CLI::Validator(
      [](std::string& text) {
        T value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc{} || end != text.data() + text.size()) {
          return base::format("\"{}\" is not a number from 0 to {}", text, std::numeric_limits<T>::max());
        }
        text = std::to_string(value);
        return std::string();
      },
      "");
}

// What stands for the value in the help; a positional argument is named by its own name.
std::string value_name(const std::string& names) {
  return !names.starts_with('-') ? "" : names.ends_with("-port") ? "N" : "VALUE";
}

}  // namespace

struct Command::Impl {
  std::unique_ptr<CLI::App> owned;  // the program only
  CLI::App* app = nullptr;
  std::vector<std::unique_ptr<Command>> verbs;
  std::function<int()> action;
  Description description;  // without the verbs, which have their own
  bool hidden = false;
  std::vector<std::pair<std::string, std::vector<std::string>>> limits;  // see only_for()

  void note(const std::string& names, const std::string& help, const std::string& default_text,
            Values::Kind kind, bool repeatable = false) {
    OptionDescription option;
    for (std::size_t begin = 0; begin <= names.size();) {
      const auto end = std::min(names.find(',', begin), names.size());
      option.names.push_back(names.substr(begin, end - begin));
      begin = end + 1;
    }
    option.help = help;
    option.default_text = default_text;
    option.values.kind = kind;
    option.repeatable = repeatable;
    if (kind == Values::Kind::text &&
        (option.names.back() == "--prefix" || option.names.back().ends_with("-dir"))) {
      option.values.kind = Values::Kind::directory;
    } else if (kind == Values::Kind::text && option.names.back().ends_with("-port")) {
      option.values.kind = Values::Kind::number;
    }
    description.options.push_back(std::move(option));
  }
  OptionDescription& described(const std::string& name) {
    const auto found = std::ranges::find_if(description.options, [&](const OptionDescription& option) {
      return std::ranges::find(option.names, name) != option.names.end();
    });
    if (found == description.options.end()) {
      throw std::logic_error("no option " + name);
    }
    return *found;
  }
  CLI::Option* finish(CLI::Option* option, const std::string& default_text) const {
    if (!default_text.empty()) {
      option->description(option->get_description() + " [default: " + default_text + "]");
    }
    return option;
  }
  // The names of `app` and its parents, up to the program's own or without it.
  static std::string path_of(const CLI::App* app, bool with_program) {
    std::string path;
    for (; app != nullptr && (with_program || app->get_parent() != nullptr); app = app->get_parent()) {
      path = app->get_name() + (path.empty() ? "" : " ") + path;
    }
    return path;
  }
  void check_limits() const {
    const auto verb = path_of(chosen().app, false);
    for (const auto& [name, allowed] : limits) {
      if (app->get_option(name)->count() == 0 || std::ranges::find(allowed, verb) != allowed.end()) {
        continue;
      }
      std::string meant;
      for (const auto& other : allowed) {
        meant += (meant.empty() ? "" : " and ") + other;
      }
      throw CLI::ValidationError(name, base::format("is for {}", meant));
    }
  }
  // The deepest verb that was given.
  const Impl& chosen() const {
    for (const auto& verb : verbs) {
      if (verb->m_impl->app->parsed()) {
        return verb->m_impl->chosen();
      }
    }
    return *this;
  }
};

Command::Command(std::string name, std::string description) : m_impl(std::make_unique<Impl>()) {
  m_impl->description.name = name;
  m_impl->description.help = description;
  m_impl->owned = std::make_unique<CLI::App>(std::move(description), std::move(name));
  m_impl->app = m_impl->owned.get();
  m_impl->app->set_version_flag("--version", std::string(DSTACK_VERSION), "print the version");
  m_impl->app->set_help_flag("-h,--help", "print this help");
  m_impl->note("--version", "print the version", {}, Values::Kind::none);
  m_impl->note("-h,--help", "print this help", {}, Values::Kind::none);
  m_impl->app->get_formatter()->column_width(34);
  m_impl->app->option_defaults()->always_capture_default(false);
}
Command::Command(std::unique_ptr<Impl> impl) : m_impl(std::move(impl)) {}
Command::~Command() = default;

Command& Command::verb(const std::string& name, const std::string& description,
                       std::vector<std::string> aliases) {
  auto impl = std::make_unique<Impl>();
  impl->app = m_impl->app->add_subcommand(name, description);
  impl->app->fallthrough();
  impl->app->set_help_flag("-h,--help", "print this help");
  for (const std::string& alias : aliases) {
    impl->app->alias(alias);
  }
  impl->description.name = name;
  impl->description.help = description;
  impl->description.aliases = std::move(aliases);
  impl->note("-h,--help", "print this help", {}, Values::Kind::none);
  m_impl->app->require_subcommand(0, 1);
  m_impl->verbs.push_back(std::unique_ptr<Command>(new Command(std::move(impl))));
  return *m_impl->verbs.back();
}

void Command::flag(const std::string& names, bool& target, const std::string& help) {
  m_impl->app->add_flag(names, target, help);
  m_impl->note(names, help, {}, Values::Kind::none);
}
void Command::flag(const std::string& name, std::optional<std::string>& target, const std::string& implied,
                   const std::string& help) {
  m_impl->app->add_flag(name + "{" + implied + "}", target, help);
  m_impl->note(name, help, {}, Values::Kind::none);
}
void Command::option(const std::string& names, std::string& target, const std::string& help,
                     const std::string& default_text) {
  m_impl->finish(m_impl->app->add_option(names, target, help)->type_name(value_name(names)), default_text);
  m_impl->note(names, help, default_text, Values::Kind::text);
}
void Command::option(const std::string& names, std::optional<std::string>& target, const std::string& help,
                     const std::string& default_text) {
  m_impl->finish(m_impl->app
                     ->add_option_function<std::string>(
                         names, [&target](const std::string& value) { target = value; }, help)
                     ->type_name(value_name(names)),
                 default_text);
  m_impl->note(names, help, default_text, Values::Kind::text);
}
void Command::option(const std::string& names, std::uint16_t& target, const std::string& help,
                     const std::string& default_text) {
  m_impl->finish(
      m_impl->app->add_option(names, target, help)->check(decimal<std::uint16_t>())->type_name("N"),
      default_text);
  m_impl->note(names, help, default_text, Values::Kind::number);
}
void Command::option(const std::string& names, std::optional<std::uint16_t>& target, const std::string& help,
                     const std::string& default_text) {
  m_impl->finish(m_impl->app
                     ->add_option_function<std::uint16_t>(
                         names, [&target](const std::uint16_t& value) { target = value; }, help)
                     ->check(decimal<std::uint16_t>())
                     ->type_name("N"),
                 default_text);
  m_impl->note(names, help, default_text, Values::Kind::number);
}
void Command::option(const std::string& names, std::uint32_t& target, const std::string& help,
                     const std::string& default_text) {
  m_impl->finish(
      m_impl->app->add_option(names, target, help)->check(decimal<std::uint32_t>())->type_name("N"),
      default_text);
  m_impl->note(names, help, default_text, Values::Kind::number);
}
void Command::option(const std::string& names, std::vector<std::string>& target, const std::string& help) {
  auto* option = m_impl->app->add_option(names, target, help)->type_name(value_name(names));
  // Without a dash it is positional and takes all that is left.
  if (names.starts_with('-')) {
    option->expected(1)->take_all()->allow_extra_args(false);
  }
  m_impl->note(names, help, {}, Values::Kind::text, /*repeatable=*/true);
}

void Command::require(const std::string& name) {
  m_impl->app->get_option(name)->required();
  m_impl->described(name).required = true;
}
void Command::exclude(const std::string& a, const std::string& b) {
  m_impl->app->get_option(a)->excludes(m_impl->app->get_option(b));
}
void Command::need(const std::string& a, const std::string& b) {
  m_impl->app->get_option(a)->needs(m_impl->app->get_option(b));
}
void Command::choose(const std::string& name, std::vector<std::string> words) {
  std::string meant;
  for (const auto& word : words) {
    meant += (meant.empty() ? "" : &word == &words.back() ? " or " : ", ") + word;
  }
  m_impl->app->get_option(name)->check(CLI::Validator(
      [words, meant](const std::string& text) {
        return std::ranges::find(words, text) != words.end()
                   ? std::string()
                   : base::format("\"{}\" is none of its values: choose {}", text, meant);
      },
      ""));
  values(name, Values::choice(std::move(words)));
}

void Command::only_for(const std::string& name, std::vector<std::string> verbs) {
  m_impl->limits.emplace_back(name, std::move(verbs));
}

void Command::values(const std::string& name, Values values) {
  m_impl->described(name).values = std::move(values);
}

void Command::examples(const std::string& text) {
  m_impl->description.examples.clear();
  for (std::size_t begin = 0; begin < text.size();) {
    const auto end = std::min(text.find('\n', begin), text.size());
    m_impl->description.examples.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  std::string footer = "Examples:\n  ";
  for (const char c : text) {
    footer += c;
    if (c == '\n') {
      footer += "  ";
    }
  }
  m_impl->app->footer(footer);
}

void Command::hide() {
  m_impl->hidden = true;
  m_impl->app->group("");
}

void Command::action(std::function<int()> function) {
  m_impl->action = std::move(function);
}

Description Command::describe() const {
  auto out = m_impl->description;
  out.acts = static_cast<bool>(m_impl->action);
  for (const auto& verb : m_impl->verbs) {
    if (!verb->m_impl->hidden) {
      out.verbs.push_back(verb->describe());
    }
  }
  return out;
}

std::string Command::parse_error(int argc, const char* const* argv) {
  try {
    m_impl->app->parse(argc, argv);
    m_impl->check_limits();
  } catch (const CLI::Success&) {
    return {};
  } catch (const CLI::ParseError& error) {
    return error.what();
  }
  return {};
}

int Command::run(int argc, const char* const* argv, const Streams& streams) {
  if (argc == 3 && std::string_view(argv[1]) == "__man") {
    const auto written = write_man_pages(describe(), argv[2]);
    return written ? k_exit_ok : print_error(streams, written.error());
  }
  try {
    m_impl->app->parse(argc, argv);
    m_impl->check_limits();
  } catch (const CLI::Success& success) {
    std::ostringstream nothing;
    m_impl->app->exit(success, streams.out, nothing);
    streams.out.flush();
    return k_exit_ok;
  } catch (const CLI::ParseError& error) {
    const Impl& chosen = m_impl->chosen();
    const auto path = Impl::path_of(chosen.app, true);
    print_error(streams, {base::Code::usage, error.what(), {}, base::format("see \"{} --help\"", path)});
    return k_exit_usage;
  }
  const Impl& chosen = m_impl->chosen();
  if (!chosen.action) {
    streams.err << chosen.app->help() << std::flush;
    return k_exit_usage;
  }
  return chosen.action();
}

}  // namespace dstack::cli
