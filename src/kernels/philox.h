// Philox4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011):
// the generator of base/random.h, all four words of a counter at once, for the host and for
// kernels.
#pragma once

#include <cstdint>

#include "formats/host_device.h"

namespace vernier::kernels {

struct PhiloxWords {
  uint32_t words[4];
};

// 128 random bits of a counter under a key of 64 bits.
VERNIER_HD inline PhiloxWords philox(PhiloxWords counter, uint64_t key) {
  uint32_t low_key = static_cast<uint32_t>(key);
  uint32_t high_key = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t even = uint64_t{0xD2511F53u} * counter.words[0];
    const uint64_t odd = uint64_t{0xCD9E8D57u} * counter.words[2];
    counter = {{static_cast<uint32_t>(odd >> 32) ^ counter.words[1] ^ low_key,
                static_cast<uint32_t>(odd),
                static_cast<uint32_t>(even >> 32) ^ counter.words[3] ^ high_key,
                static_cast<uint32_t>(even)}};
    low_key += 0x9E3779B9u;
    high_key += 0xBB67AE85u;
  }
  return counter;
}

// Signs of a probe (fisher_probe in loss.h) for vocabulary indexes [128 block, 128 block + 128) of
// a token: bit i % 32 of word i / 32 set says -1 at index 128 block + i. base/random.h's counters
// end in 0, so that the streams of one seed never meet.
inline constexpr int kSignsPerBlock = 128;

VERNIER_HD inline PhiloxWords probe_signs(uint64_t seed, uint64_t token, uint32_t block) {
  return philox({{block, static_cast<uint32_t>(token), static_cast<uint32_t>(token >> 32), 1}},
                seed);
}

}  // namespace vernier::kernels
