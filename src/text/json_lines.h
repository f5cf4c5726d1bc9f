// Files of JSON lines: one object a line, one document each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vernier::text {

// The documents in the order of the lines; blank lines are skipped. Errors name `file_name` and the
// line. The rules stand at read_documents (dataset.h).
std::vector<std::string> parse_json_lines(std::string_view text, std::string_view file_name);

}  // namespace vernier::text
