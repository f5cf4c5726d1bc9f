// The registry's row for NVFP4.
#include "formats/nvfp4.h"

#include <algorithm>
#include <vector>

#include "formats/bf16_elems.h"
#include "formats/nvfp4_cpu.h"
#include "formats/nvfp4_rule.h"
#include "formats/nvfp4_search.h"
#include "formats/rows.h"

namespace vernier::formats {
namespace {

constexpr PlaneSpec kPlanes[] = {
    {PlaneRole::kCodes, "weight", DType::kU8,
     [](int64_t n, int64_t k) {
       return Shape{n, k / 2};
     }},
    {PlaneRole::kBlockScales, "weight_scale", DType::kF8E4M3,
     [](int64_t n, int64_t k) {
       return Shape{n, k / kNvfp4Block};
     }},
    {PlaneRole::kGlobalScale, "weight_scale_2", DType::kF32,
     [](int64_t, int64_t) { return Shape{}; }},
};

// What a thread packs at a time, and what stays in its first-level cache between the passes: 8 KiB.
constexpr int64_t kChunkBlocks = 256;
// Below this many blocks a second thread costs more than it saves.
constexpr int64_t kParallelBlocks = 4096;

// Chooses block scales by the rule; one object serves all threads.
class BlockScales {
 public:
  BlockScales(const ScaleRule& rule, const Nvfp4Scaling& scaling)
      : method_(rule.method), scaling_(scaling), sweep_(scaling.ga, scaling.arithmetic) {
    if (method_ == ScaleMethod::kMultipliers) multipliers_ = multiplier_grid(rule);
  }

  void choose(const uint16_t* w, int64_t n_blocks, uint8_t* scales) const {
    switch (method_) {
      case ScaleMethod::kMax:
        return nvfp4_max_block_scales(w, n_blocks, scaling_, scales);
      case ScaleMethod::kMultipliers:
        return nvfp4_search_multipliers(w, n_blocks, scaling_, multipliers_, scales);
      case ScaleMethod::kFp8Sweep:
        return nvfp4_sweep(w, n_blocks, sweep_, scales);
    }
  }

 private:
  ScaleMethod method_;
  Nvfp4Scaling scaling_;
  Nvfp4SweepTable sweep_;
  std::vector<float> multipliers_;
};

PackedTensor encode(const TensorView& weight, const EncodeOptions& options) {
  check_nvfp4_rule(options.rule);
  const Nvfp4Scaling scaling = nvfp4_scaling(weight, options);
  const BlockScales block_scales(options.rule, scaling);
  PackedTensor packed = make_packed(kNvfp4Format, weight.shape[0], weight.shape[1]);
  packed.plane(PlaneRole::kGlobalScale).as<float>()[0] = scaling.global_scale;
  uint8_t* scales = packed.plane(PlaneRole::kBlockScales).as<uint8_t>().data();
  uint8_t* codes = packed.plane(PlaneRole::kCodes).as<uint8_t>().data();
  const int64_t n_blocks = weight.size() / kNvfp4Block;
#pragma omp parallel for schedule(static) if (n_blocks > kParallelBlocks)
  for (int64_t first = 0; first < n_blocks; first += kChunkBlocks) {
    const int64_t count = std::min(kChunkBlocks, n_blocks - first);
    uint16_t buffer[kChunkBlocks * kNvfp4Block];
    const uint16_t* w = bf16_elems(weight, first * kNvfp4Block, count * kNvfp4Block, buffer);
    block_scales.choose(w, count, scales + first);
    nvfp4_pack(w, count, scales + first, scaling.global_scale, codes + first * kNvfp4Block / 2);
  }
  return packed;
}

void decode_rows(const PackedView& packed, int64_t first_row, int64_t n_rows, float* out) {
  const int64_t row_blocks = packed.k / kNvfp4Block;
  const int64_t first = first_row * row_blocks;
  const uint8_t* codes = packed.plane(PlaneRole::kCodes).as<uint8_t>().data();
  const uint8_t* scales = packed.plane(PlaneRole::kBlockScales).as<uint8_t>().data();
  const float global_scale = packed.plane(PlaneRole::kGlobalScale).as<float>()[0];
  nvfp4_unpack(codes + first * kNvfp4Block / 2, n_rows * row_blocks, scales + first, global_scale,
               out);
}

void round_input(MatrixView x, float input_scale) {
  for (int64_t row = 0; row < x.rows; ++row) {
    nvfp4_round_inputs(x.row(row).data(), x.cols / kNvfp4Block, input_scale);
  }
}

}  // namespace

constinit const Format kNvfp4Format = {
    .name = "nvfp4",
    .summary = "NVFP4: FP4 E2M1 with an E4M3 scale per 16 weights and an FP32 scale per tensor",
    .bits_per_weight = 4.5,
    .k_multiple = kNvfp4Block,
    .planes = kPlanes,
    .input_divisor = kNvfp4InputDivisor,
    .encode = encode,
    .decode_rows = decode_rows,
    .round_input = round_input,
    .code_max = kE2m1Max,
    .device_codec = &kNvfp4DeviceCodec,
};

}  // namespace vernier::formats
