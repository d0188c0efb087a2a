// Reads the plain part of JSON where it lies, without building a tree: strings of printable ASCII without
// escapes, whole numbers of up to 18 digits, at most 16 members in an object whose keys the caller does not
// know. Whatever is not plain, or not JSON, makes a call return false or nullopt; the caller then asks
// parse_json_strict(), which decides. So this accepts a part of what that accepts, with the same meaning, and
// never words an error.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace dstack::app {

class PlainJson {
 public:
  PlainJson(std::string_view text, int max_depth) : m_text(text), m_depth_left(max_depth) {}

  // Nothing but white space is left.
  bool at_end() {
    skip_space();
    return m_at == m_text.size();
  }

  std::optional<std::string_view> string() {
    skip_space();
    return raw_string();
  }
  std::optional<bool> boolean() {
    skip_space();
    if (literal("true")) {
      return true;
    }
    if (literal("false")) {
      return false;
    }
    return std::nullopt;
  }
  std::optional<std::uint64_t> number();

  // Calls on_member(key) for each member; it takes the value and returns whether that went well. Keys must
  // differ; with `caller_checks_keys` that is the caller's business, and there is no limit on their number.
  template <class OnMember>
  bool object(OnMember on_member, bool caller_checks_keys = false) {
    if (!open('{')) {
      return false;
    }
    std::array<std::string_view, 16> seen;
    std::size_t count = 0;
    if (!next_is('}')) {
      do {
        const auto key = string();
        if (!key || !next_is(':')) {
          return false;
        }
        if (!caller_checks_keys) {
          if (count == seen.size()) {
            return false;
          }
          for (std::size_t i = 0; i < count; ++i) {
            if (seen[i] == *key) {
              return false;
            }
          }
          seen[count++] = *key;
        }
        if (!on_member(*key)) {
          return false;
        }
      } while (next_is(','));
      if (!next_is('}')) {
        return false;
      }
    }
    ++m_depth_left;
    return true;
  }

  template <class OnElement>
  bool array(OnElement on_element) {
    if (!open('[')) {
      return false;
    }
    if (!next_is(']')) {
      do {
        if (!on_element()) {
          return false;
        }
      } while (next_is(','));
      if (!next_is(']')) {
        return false;
      }
    }
    ++m_depth_left;
    return true;
  }

  // Any plain value.
  bool skip();

 private:
  void skip_space() {
    while (m_at < m_text.size() &&
           (m_text[m_at] == ' ' || m_text[m_at] == '\n' || m_text[m_at] == '\r' || m_text[m_at] == '\t')) {
      ++m_at;
    }
  }
  bool next_is(char wanted) {
    skip_space();
    if (m_at < m_text.size() && m_text[m_at] == wanted) {
      ++m_at;
      return true;
    }
    return false;
  }
  bool open(char bracket) {
    if (m_depth_left <= 0 || !next_is(bracket)) {
      return false;
    }
    --m_depth_left;
    return true;
  }
  bool literal(std::string_view word) {
    if (m_text.substr(m_at, word.size()) != word) {
      return false;
    }
    m_at += word.size();
    return true;
  }
  std::optional<std::string_view> raw_string();

  std::string_view m_text;
  std::size_t m_at = 0;
  int m_depth_left;
};

}  // namespace dstack::app
