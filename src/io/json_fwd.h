// The type of JSON values, for headers that only name it: json.h, which defines it, is slow to
// compile.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace vernier::io {

using Json = nlohmann::ordered_json;

}  // namespace vernier::io
