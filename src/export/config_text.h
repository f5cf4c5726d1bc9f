// Edits a JSON object as text, so that what is not edited keeps its spelling: key order, 1e-05, a
// bare Infinity or {"__float__": "Infinity"}. Reading config.json into values and printing them
// would lose the last two, which different versions of transformers write and read.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace vernier::exporting {

struct ObjectMember {
  std::string key;    // as spelled, without its quotes
  std::string value;  // JSON text
};

// The members of the object that `text` holds, in order. REQUIRES: a JSON object (io::parse_json
// accepts it); bare Infinity and NaN are allowed.
std::vector<ObjectMember> split_object(std::string_view text);
// The object again, laid out as Python's json.dumps(indent=4) would, without a newline at the end.
std::string join_object(const std::vector<ObjectMember>& members, int indent = 4);

// Replaces a member's value in place, or appends it.
void set_member(std::vector<ObjectMember>& members, std::string_view key, std::string value);
void remove_member(std::vector<ObjectMember>& members, std::string_view key);

}  // namespace vernier::exporting
