#include "search/html.h"

#include <fmt/format.h>

#include "base/check.h"

namespace vernier::search {

std::string escape(std::string_view text) {
  std::string escaped;
  for (const char letter : text) {
    switch (letter) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += letter;
    }
  }
  return escaped;
}

std::string html_table(std::string_view caption, const std::vector<HtmlColumn>& columns,
                       const std::vector<std::vector<std::string>>& rows, bool has_totals) {
  const auto align = [&](size_t col) { return columns[col].is_number ? " class=\"n\"" : ""; };
  std::string html = fmt::format(
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\">"
      "<table>\n<caption>{0}</caption>\n<thead><tr>",
      escape(caption));
  for (size_t col = 0; col < columns.size(); ++col) {
    html += fmt::format("<th scope=\"col\"{}>{}</th>", align(col), escape(columns[col].title));
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const std::vector<std::string>& row : rows) {
    VERNIER_CHECK(row.size() == columns.size());
    html += has_totals && &row == &rows.back() ? "<tr class=\"total\">" : "<tr>";
    for (size_t col = 0; col < columns.size(); ++col) {
      html += col == 0 ? fmt::format("<th scope=\"row\"{}>{}</th>", align(col), row[col])
                       : fmt::format("<td{}>{}</td>", align(col), row[col]);
    }
    html += "</tr>\n";
  }
  return html + "</tbody>\n</table></div>\n";
}

}  // namespace vernier::search
