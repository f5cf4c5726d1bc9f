#include "report/table.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace vernier::report {
namespace {

constexpr int kGap = 2;
constexpr int kNarrowest = 12;  // a shrunken cell still shows this much

int width_of(const std::string& text) {
  // Every byte but UTF-8 continuation bytes starts a character.
  return static_cast<int>(
      std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xC0) != 0x80; }));
}

// Only plain ASCII names are shortened; anything else is left as it is.
std::string shorten(const std::string& text, int width) {
  if (width_of(text) <= width || width_of(text) != static_cast<int>(text.size())) return text;
  const int n_head = (width - 3) / 2;
  const int n_tail = width - 3 - n_head;
  return text.substr(0, n_head) + "..." + text.substr(text.size() - n_tail);
}

std::string pad(const std::string& text, int width, Align align) {
  const std::string spaces(std::max(0, width - width_of(text)), ' ');
  return align == Align::kLeft ? text + spaces : spaces + text;
}

std::string join(const std::vector<std::string>& cells) {
  std::string line;
  for (size_t col = 0; col < cells.size(); ++col) {
    if (col > 0) line.append(kGap, ' ');
    line += cells[col];
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

std::vector<int> column_widths(const std::vector<Column>& columns,
                               const std::vector<std::vector<std::string>>& rows, int width) {
  std::vector<int> widths;
  for (size_t col = 0; col < columns.size(); ++col) {
    int widest = width_of(columns[col].title);
    for (const auto& row : rows) widest = std::max(widest, width_of(row[col]));
    widths.push_back(widest);
  }
  int excess = std::accumulate(widths.begin(), widths.end(), 0) +
               kGap * (static_cast<int>(columns.size()) - 1) - width;
  // The widest of the shrinking columns gives way first, character by character.
  for (; excess > 0; --excess) {
    int widest = -1;
    for (size_t col = 0; col < columns.size(); ++col) {
      const int floor = std::max(kNarrowest, width_of(columns[col].title));
      const bool gives = columns[col].may_shrink && widths[col] > floor;
      if (gives && (widest < 0 || widths[col] > widths[widest])) widest = static_cast<int>(col);
    }
    if (widest < 0) break;
    --widths[widest];
  }
  return widths;
}

}  // namespace

std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows, int width) {
  for (const auto& row : rows) VERNIER_CHECK(row.size() == columns.size());
  const std::vector<int> widths = column_widths(columns, rows, width);
  std::vector<std::string> titles, rules;
  for (size_t col = 0; col < columns.size(); ++col) {
    titles.push_back(pad(columns[col].title, widths[col], columns[col].align));
    rules.push_back(std::string(widths[col], '-'));
  }
  std::string table = join(titles) + join(rules);
  for (const auto& row : rows) {
    std::vector<std::string> cells;
    for (size_t col = 0; col < columns.size(); ++col) {
      const std::string cell = columns[col].may_shrink ? shorten(row[col], widths[col]) : row[col];
      cells.push_back(pad(cell, widths[col], columns[col].align));
    }
    table += join(cells);
  }
  return table;
}

}  // namespace vernier::report
