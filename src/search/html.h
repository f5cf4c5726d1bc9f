// Pieces of HTML pages as strings.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vernier::search {

// Text as it stands in an element or in a quoted attribute.
std::string escape(std::string_view text);

// Of a table whose cells hold HTML; titles hold text.
struct HtmlColumn {
  std::string title;
  bool is_number = true;  // to the right, digits of one width
};

// A table that scrolls sideways where it is wider than the page. The first cell of a row is its
// heading; a last row of totals stands out.
std::string html_table(std::string_view caption, const std::vector<HtmlColumn>& columns,
                       const std::vector<std::vector<std::string>>& rows, bool has_totals = false);

}  // namespace vernier::search
