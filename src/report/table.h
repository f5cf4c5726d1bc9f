// Tables for a terminal, as strings.
#pragma once

#include <string>
#include <vector>

namespace vernier::report {

enum class Align { kLeft, kRight };

struct Column {
  std::string title;
  Align align = Align::kRight;
  // Cells of this column give way (shortened in the middle with "...") when the table is too wide.
  bool may_shrink = false;
};

// Columns two spaces apart under a ruled header, lines without trailing spaces, at most `width`
// wide as long as the shrinking columns allow. Width is counted in code points.
std::string format_table(const std::vector<Column>& columns,
                         const std::vector<std::vector<std::string>>& rows, int width = 80);

}  // namespace vernier::report
