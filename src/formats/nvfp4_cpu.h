// NVFP4 in bulk: the definitions of nvfp4.h over arrays of blocks, vectorized. One thread. A weight
// is a plain sequence of blocks, since rows are whole numbers of them.
#pragma once

#include <cstdint>

#include "formats/nvfp4.h"

namespace vernier::formats {

// scales[b] = nvfp4_block_scale of block b's own amax; `w` in BF16, 16 a block.
void nvfp4_max_block_scales(const uint16_t* w, int64_t n_blocks, const Nvfp4Scaling& scaling,
                            uint8_t* scales);
// The same, given the amaxes: computed from the weight or chosen by a search.
void nvfp4_block_scales(const float* amaxes, int64_t n_blocks, const Nvfp4Scaling& scaling,
                        uint8_t* scales);
// Packs blocks with the given scales, 8 bytes a block.
void nvfp4_pack(const uint16_t* w, int64_t n_blocks, const uint8_t* scales, float global_scale,
                uint8_t* codes);
void nvfp4_unpack(const uint8_t* codes, int64_t n_blocks, const uint8_t* scales, float global_scale,
                  float* out);
// Rounds activations in place, block by block. A NaN makes its whole block NaN.
void nvfp4_round_inputs(float* x, int64_t n_blocks, float input_scale);

}  // namespace vernier::formats
