// Searches for NVFP4 block scales of least squared error (nvfp4_block_loss), vectorized. One
// thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "formats/nvfp4_cpu.h"

namespace vernier::formats {

// The 126 candidate scales of the sweep for one weight.
struct Nvfp4SweepTable {
  Nvfp4SweepTable(float ga, Arithmetic arithmetic);

  // scale[v] = nvfp4_sweep_scale(v). Past the last code its scale is repeated, so that vectors may
  // reach over the end: equal losses go to the lower code.
  std::array<float, 136> scale;
  float codes_per_amax;  // times a block's amax: the block scale that stands for amax / 6.5
};

// scales[b] = the code of least loss for block b, the lowest of equal ones.
void nvfp4_sweep(const uint16_t* w, int64_t n_blocks, const Nvfp4SweepTable& table,
                 uint8_t* scales);
// The same by trying every code: what nvfp4_sweep is tested and measured against.
void nvfp4_sweep_all(const uint16_t* w, int64_t n_blocks, const Nvfp4SweepTable& table,
                     uint8_t* scales);
// scales[b] = the static block scale of ba * m for the multiplier m of least loss, the first of
// equals.
void nvfp4_search_multipliers(const uint16_t* w, int64_t n_blocks, const Nvfp4Scaling& scaling,
                              std::span<const float> multipliers, uint8_t* scales);

}  // namespace vernier::formats
