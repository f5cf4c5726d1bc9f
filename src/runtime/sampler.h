// Choosing the next token from a row of logits.
#pragma once

#include <cstdint>
#include <span>

namespace vernier::runtime {

struct SamplingOptions {
  double temperature = 0;  // 0: greedy
  int64_t top_k = 0;       // keep the k most likely tokens; 0: all
  double top_p = 1;        // keep the most likely tokens whose probabilities first reach p
  uint64_t seed = 0;
};

// The token at `step` of the stream `sequence`. Temperature is applied first, then top-k, then
// top-p (in the remaining distribution, renormalized). Ties go to the lower id. The same seed,
// stream, step and logits give the same token.
int32_t sample(std::span<const float> logits, const SamplingOptions& options, uint32_t sequence,
               uint64_t step);

}  // namespace vernier::runtime
