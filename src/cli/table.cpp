#include "cli/table.h"

#include <algorithm>

#include "base/log.h"

namespace dstack::cli {
namespace {

bool continues(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) == 0x80;
}

std::string cut(std::string text, std::size_t max_width) {
  if (max_width == 0 || display_width(text) <= max_width) {
    return text;
  }
  std::size_t width = 0;
  std::size_t end = 0;
  while (end < text.size() && (width < max_width - 1 || continues(text[end]))) {
    width += continues(text[end]) ? 0 : 1;
    ++end;
  }
  return text.substr(0, end) + "…";
}

}  // namespace

std::size_t display_width(std::string_view utf8) {
  return static_cast<std::size_t>(
      std::count_if(utf8.begin(), utf8.end(), [](char c) { return !continues(c); }));
}

void Table::add(std::vector<std::string> cells) {
  cells.resize(m_columns.size());
  for (std::size_t i = 0; i < cells.size(); ++i) {
    cells[i] = cut(base::escape_control(cells[i]), m_columns[i].max_width);
  }
  m_rows.push_back(std::move(cells));
}

std::string Table::text() const {
  std::vector<std::size_t> widths;
  for (std::size_t i = 0; i < m_columns.size(); ++i) {
    std::size_t width = display_width(m_columns[i].header);
    for (const auto& row : m_rows) {
      width = std::max(width, display_width(row[i]));
    }
    widths.push_back(width);
  }
  std::string out;
  const auto line = [&](const auto& cell_of) {
    std::string text;
    for (std::size_t i = 0; i < m_columns.size(); ++i) {
      const std::string& cell = cell_of(i);
      text += cell;
      text.append(widths[i] - display_width(cell) + 2, ' ');
    }
    text.erase(text.find_last_not_of(' ') + 1);
    out += text + '\n';
  };
  line([&](std::size_t i) -> const std::string& { return m_columns[i].header; });
  for (const auto& row : m_rows) {
    line([&](std::size_t i) -> const std::string& { return row[i]; });
  }
  return out;
}

}  // namespace dstack::cli
