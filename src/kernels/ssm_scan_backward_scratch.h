// How much memory the backward scan takes on a device, and how it stays within bounds: groups of
// heads are treated in turn, as many at once as their states leave room.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/ssm_scan.h"

namespace vernier::kernels {

// Tokens between two states that are kept, at most.
inline constexpr int64_t kBackwardChunkTokens = 64;

inline int64_t backward_chunk_tokens(const SsmShape& shape) {
  return std::min(shape.chunk, kBackwardChunkTokens);
}

// Elements between rows of a kept state: whole packs of 16 bytes.
inline int64_t kept_state_stride(const SsmShape& shape) { return (shape.state_dim + 3) / 4 * 4; }

// Of one group of heads, for so many tokens: a state and a gradient of one between any two chunks
// of a sequence. A sequence of n tokens has at most n / chunk such places.
inline int64_t kept_states_bytes(const SsmShape& shape, int64_t n_tokens) {
  const int64_t n_places = n_tokens / backward_chunk_tokens(shape);
  const int64_t n_rows = shape.n_heads / shape.n_groups * shape.head_dim;
  return 2 * n_places * n_rows * kept_state_stride(shape) * static_cast<int64_t>(sizeof(float));
}

inline int64_t groups_at_once(const SsmShape& shape, int64_t n_tokens) {
  constexpr int64_t kMaxBytes = int64_t{512} << 20;
  const int64_t bytes = std::max<int64_t>(1, kept_states_bytes(shape, n_tokens));
  return std::clamp<int64_t>(kMaxBytes / bytes, 1, shape.n_groups);
}

}  // namespace vernier::kernels
