// The registry's row for FP8 per tensor.
#include "formats/fp8.h"

#include <vector>

#include "formats/bf16_elems.h"
#include "formats/fp8_cpu.h"
#include "formats/fp8_rule.h"
#include "formats/rows.h"

namespace vernier::formats {
namespace {

constexpr PlaneSpec kPlanes[] = {
    {PlaneRole::kCodes, "weight", DType::kF8E4M3,
     [](int64_t n, int64_t k) {
       return Shape{n, k};
     }},
    {PlaneRole::kGlobalScale, "weight_scale", DType::kF32,
     [](int64_t, int64_t) { return Shape{}; }},
};

// Below this many weights a second thread costs more than it saves.
constexpr int64_t kParallelElems = 1 << 16;

// The Fp8CandidateLosses of a weight in host memory.
std::vector<double> candidate_losses(const TensorView& weight, const std::vector<float>& amaxes) {
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  const size_t n_candidates = amaxes.size();
  std::vector<double> row_losses(static_cast<size_t>(n) * n_candidates);
#pragma omp parallel if (n * k > kParallelElems)
  {
    std::vector<uint16_t> buffer(static_cast<size_t>(k));
#pragma omp for schedule(static)
    for (int64_t row = 0; row < n; ++row) {
      const uint16_t* w = bf16_elems(weight, row * k, k, buffer.data());
      double* losses = &row_losses[static_cast<size_t>(row) * n_candidates];
      for (const float amax : amaxes) *losses++ = fp8_loss(w, k, fp8_candidate_multiplier(amax));
    }
  }
  std::vector<double> losses(n_candidates);
  for (size_t i = 0; i < row_losses.size(); ++i) losses[i % n_candidates] += row_losses[i];
  return losses;
}

PackedTensor encode(const TensorView& weight, const EncodeOptions& options) {
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  const float scale = fp8_scale(weight, options, candidate_losses);
  const float divisor = fp8_weight_divisor(scale, options.arithmetic);
  PackedTensor packed = make_packed(kFp8E4m3Format, n, k);
  packed.plane(PlaneRole::kGlobalScale).as<float>()[0] = scale;
  uint8_t* codes = packed.plane(PlaneRole::kCodes).as<uint8_t>().data();
#pragma omp parallel if (n * k > kParallelElems)
  {
    std::vector<uint16_t> buffer(static_cast<size_t>(k));
#pragma omp for schedule(static)
    for (int64_t row = 0; row < n; ++row) {
      fp8_pack(bf16_elems(weight, row * k, k, buffer.data()), k, divisor, codes + row * k);
    }
  }
  return packed;
}

void decode_rows(const PackedView& packed, int64_t first_row, int64_t n_rows, float* out) {
  const float scale = packed.plane(PlaneRole::kGlobalScale).as<float>()[0];
  const uint8_t* codes = packed.plane(PlaneRole::kCodes).as<uint8_t>().data();
  fp8_unpack(codes + first_row * packed.k, n_rows * packed.k, scale, out);
}

void round_input(MatrixView x, float input_scale) {
  for (int64_t row = 0; row < x.rows; ++row) {
    fp8_round_inputs(x.row(row).data(), x.cols, input_scale);
  }
}

}  // namespace

constinit const Format kFp8E4m3Format = {
    .name = "fp8_e4m3",
    .summary = "FP8 E4M3, one scale per tensor",
    .bits_per_weight = 8,
    .k_multiple = 1,
    .planes = kPlanes,
    .input_divisor = kE4m3Max,
    .encode = encode,
    .decode_rows = decode_rows,
    .round_input = round_input,
    .code_max = kE4m3Max,
    .device_codec = &kFp8DeviceCodec,
};

}  // namespace vernier::formats
