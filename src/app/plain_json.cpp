#include "app/plain_json.h"

#include "base/find_byte.h"

namespace dstack::app {

std::optional<std::string_view> PlainJson::raw_string() {
  if (m_at >= m_text.size() || m_text[m_at] != '"') {
    return std::nullopt;
  }
  const std::size_t begin = m_at + 1;
  m_at = base::find_byte(m_text, begin, [](auto c) { return c == '"' || c == '\\' || c < ' ' || c > '~'; });
  if (m_at == m_text.size() || m_text[m_at] != '"') {
    return std::nullopt;
  }
  return m_text.substr(begin, m_at++ - begin);
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
