// The number of a token in its vocabulary.
#pragma once

#include <cstdint>

namespace vernier::text {

using TokenId = int32_t;

}  // namespace vernier::text
