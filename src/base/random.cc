#include "base/random.h"

#include <Random123/philox.h>

namespace vernier {

uint32_t random_bits(uint64_t seed, uint32_t stream, uint64_t position) {
  const r123::Philox4x32::ctr_type counter = {
      {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), stream, 0}};
  const r123::Philox4x32::key_type key = {
      {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
  return r123::Philox4x32()(counter, key)[0];
}

double random_uniform(uint64_t seed, uint32_t stream, uint64_t position) {
  return random_bits(seed, stream, position) * 0x1p-32;
}

}  // namespace vernier
