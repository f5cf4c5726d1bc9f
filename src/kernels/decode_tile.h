// The tiles in which a device decodes packed weights on their way into products; for plans of
// memory too.
#pragma once

#include <algorithm>
#include <cstdint>

#include "tensor/tensor.h"

namespace vernier::kernels {

// Decoded weights of one tile. Large, since every product pays for a start and an end; small beside
// a device's memory.
inline constexpr int64_t kDecodeTileBytes = 256 << 20;
// Rows of a tile are a multiple of this, so that tiles of an output are as aligned as the output.
inline constexpr int64_t kDecodeTileRowMultiple = 256;

// Rows of a weight [n, k] in a tile of this type.
inline int64_t decode_tile_rows(int64_t n, int64_t k, DType dtype,
                                int64_t most_bytes = kDecodeTileBytes) {
  const int64_t row_bytes = std::max<int64_t>(1, n_bytes(dtype, {k}));
  const int64_t rows = most_bytes / row_bytes / kDecodeTileRowMultiple * kDecodeTileRowMultiple;
  return std::min(n, std::max(rows, kDecodeTileRowMultiple));
}

// What a product with such a weight allocates for its tile.
inline int64_t decode_tile_bytes(int64_t n, int64_t k, DType dtype) {
  return n_bytes(dtype, {decode_tile_rows(n, k, dtype), k});
}

}  // namespace vernier::kernels
