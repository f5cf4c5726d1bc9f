// JSON as model configurations hold it in the wild: Infinity and NaN, bare or as {"__float__":
// "NaN"}, become doubles. Key order is kept. Parsing takes time linear in the text; looking a key
// up scans its object, so walk large ones (vocabularies, weight maps) with items().
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "io/json_fwd.h"

// Compiled once, in json.cc.
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace vernier::io {

// Throws Corrupt naming `origin`: malformed text with its line and column, a key that appears twice
// in one object, nesting deeper than 256 levels.
Json parse_json(std::string_view text, std::string_view origin);
Json read_json(const std::filesystem::path& path);

// Whether the value is this string; comparing by == would make a value of the text first.
bool is_string(const Json& value, std::string_view text);

// ASCII text that parse_json turns into the same value, non-finite numbers included (nlohmann's own
// dump() writes them as null). With `indent` the layout is that of Python's json.dumps(indent=...),
// without it there is no white space.
std::string dump_json(const Json& value, int indent = -1);

// YAML as the same values: mappings keep their order, plain scalars are typed as YAML 1.2 core does
// (null, true/false, integers, floats, else strings). One document; an empty one is null. Throws
// InvalidArgument naming `origin` and the line: malformed text, a key that appears twice in one
// mapping, tags other than !!str, keys that are not scalars, aliases that expand without bound.
Json parse_yaml(std::string_view text, std::string_view origin);

}  // namespace vernier::io
