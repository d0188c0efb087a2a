#include "app/plain_json.h"

#include <cstring>

namespace dstack::app {

namespace {

// Is any of these eight bytes a quote, a backslash, a control character or not ASCII? May say yes too often,
// never no wrongly: a borrow only ever spreads to bytes above one that is special itself.
bool has_special(std::uint64_t bytes) {
  constexpr std::uint64_t k_ones = 0x0101010101010101;
  constexpr std::uint64_t k_tops = 0x8080808080808080;
  const std::uint64_t quote = bytes ^ (k_ones * '"');
  const std::uint64_t backslash = bytes ^ (k_ones * '\\');
  const std::uint64_t del = bytes ^ (k_ones * 0x7f);
  return ((bytes | (bytes - k_ones * 0x20) | (quote - k_ones) | (backslash - k_ones) | (del - k_ones)) &
          k_tops) != 0;
}

}  // namespace

std::optional<std::string_view> PlainJson::raw_string() {
  if (m_at >= m_text.size() || m_text[m_at] != '"') {
    return std::nullopt;
  }
  const std::size_t begin = ++m_at;
  std::uint64_t eight = 0;
  while (m_text.size() - m_at >= sizeof eight) {
    std::memcpy(&eight, m_text.data() + m_at, sizeof eight);
    if (has_special(eight)) {
      break;
    }
    m_at += sizeof eight;
  }
  for (; m_at < m_text.size(); ++m_at) {
    const char c = m_text[m_at];
    if (c == '"') {
      return m_text.substr(begin, m_at++ - begin);
    }
    if (c == '\\' || c < 0x20 || c > 0x7e) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> PlainJson::number() {
  skip_space();
  const std::size_t begin = m_at;
  std::uint64_t value = 0;
  while (m_at < m_text.size() && m_text[m_at] >= '0' && m_text[m_at] <= '9') {
    value = value * 10 + static_cast<std::uint64_t>(m_text[m_at++] - '0');
    if (m_at - begin > 18) {
      return std::nullopt;
    }
  }
  const bool leading_zero = m_at - begin > 1 && m_text[begin] == '0';
  if (m_at == begin || leading_zero) {
    return std::nullopt;
  }
  return value;
}

bool PlainJson::skip() {
  skip_space();
  if (m_at >= m_text.size()) {
    return false;
  }
  switch (m_text[m_at]) {
    case '"':
      return raw_string().has_value();
    case '{':
      return object([&](std::string_view) { return skip(); });
    case '[':
      return array([&] { return skip(); });
    case 't':
      return literal("true");
    case 'f':
      return literal("false");
    case 'n':
      return literal("null");
    default:
      return number().has_value();
  }
}

}  // namespace dstack::app
