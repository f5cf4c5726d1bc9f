// Counter-based random numbers: the value at a position depends on nothing but the seed and the
// position, so that results do not depend on order or threads (Philox4x32 with 10 rounds).
#pragma once

#include <cstdint>

namespace vernier {

// 32 random bits at (seed, stream, position).
uint32_t random_bits(uint64_t seed, uint32_t stream, uint64_t position);

// Uniform in [0, 1), 32 bits of resolution.
double random_uniform(uint64_t seed, uint32_t stream, uint64_t position);

}  // namespace vernier
