#include "base/kernel_cmdline.h"

#include "base/fs.h"

namespace dstack::base {

namespace {

bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\n';
}

// Takes the next word off `rest`; white space inside double quotes does not end it.
std::string_view next_word(std::string_view& rest) {
  std::size_t begin = 0;
  while (begin < rest.size() && is_space(rest[begin])) {
    ++begin;
  }
  std::size_t end = begin;
  bool quoted = false;
  while (end < rest.size() && (quoted || !is_space(rest[end]))) {
    quoted ^= rest[end] == '"';
    ++end;
  }
  const auto word = rest.substr(begin, end - begin);
  rest.remove_prefix(end);
  return word;
}

std::string_view without_quotes(std::string_view text) {
  if (text.starts_with('"')) {
    text.remove_prefix(1);
  }
  if (text.ends_with('"')) {
    text.remove_suffix(1);
  }
  return text;
}

}  // namespace

std::optional<std::string> cmdline_value(std::string_view cmdline, std::string_view key) {
  std::optional<std::string> found;
  while (true) {
    const auto word = next_word(cmdline);
    if (word.empty()) {
      return found;
    }
    const auto equals = word.find('=');
    if (equals == std::string_view::npos) {
      if (without_quotes(word) == key) {
        found = "";
      }
      continue;
    }
    auto name = word.substr(0, equals);
    auto value = word.substr(equals + 1);
    if (name.starts_with('"')) {
      name.remove_prefix(1);
    }
    if (name == key) {
      found = std::string(without_quotes(value));
    }
  }
}

Result<std::string> read_kernel_cmdline() {
  DS_TRY(auto text, read_file("/proc/cmdline", 64 * 1024));
  while (text.ends_with('\n')) {
    text.pop_back();
  }
  return text;
}

}  // namespace dstack::base
