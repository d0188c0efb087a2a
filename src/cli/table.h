// Columns of text for a terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace dstack::cli {

struct Column {
  std::string header;
  std::size_t max_width = 0;  // longer cells are cut with "…"; 0 = no limit
};

// Control characters in cells are escaped: a name cannot move the cursor or forge lines.
class Table {
 public:
  explicit Table(std::vector<Column> columns) : m_columns(std::move(columns)) {}
  void add(std::vector<std::string> cells);
  // Two spaces between columns, no trailing spaces, every line ends in a newline.
  std::string text() const;
  bool empty() const { return m_rows.empty(); }

 private:
  std::vector<Column> m_columns;
  std::vector<std::vector<std::string>> m_rows;
};

// Code points, as good as columns for what is shown here.
std::size_t display_width(std::string_view utf8);

}  // namespace dstack::cli
