// Files of a search: JSON objects with a version of their own.
#pragma once

#include <fmt/format.h>

#include <filesystem>
#include <string_view>

#include "base/error.h"
#include "io/json.h"

namespace vernier::search {

// read(json) of a file. Throws NotFound; Corrupt naming the file where it is not of the version or
// lacks what `read` asks for. `what` it should be: "a table of products".
template <class Read>
auto read_versioned(const std::filesystem::path& path, int version, std::string_view none,
                    std::string_view what, const Read& read) {
  const io::Json json = io::read_json(path);
  if (!json.is_object() || json.value("version", io::Json()) != version) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: {} of this version (\"version\": {})",
                                                 path.string(), none, version));
  }
  try {
    return read(json);
  } catch (const io::Json::exception& error) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: not {}: {}", path.string(), what, error.what()));
  }
}

}  // namespace vernier::search
