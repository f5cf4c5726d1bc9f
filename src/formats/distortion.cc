// What packing did to a weight: signal, noise, saturation, flushing.
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "formats/bf16_elems.h"
#include "formats/distortion_cpu.h"
#include "formats/e4m3.h"
#include "formats/format.h"

namespace vernier::formats {
namespace {

// Below this many weights a second thread costs more than it saves.
constexpr int64_t kParallelElems = 1 << 16;

// One row, a group of weights with a common scale at a time.
DistortionSums measure_row(const PackedView& packed, int64_t row, const uint16_t* w,
                           const float* decoded) {
  const float code_max = packed.format->code_max;
  const TensorView& block_scales = packed.plane(PlaneRole::kBlockScales);
  const int64_t n_groups = block_scales.data == nullptr ? 1 : block_scales.shape[1];
  const int64_t group = packed.k / n_groups;
  DistortionSums sums;
  for (int64_t i = 0; i < n_groups; ++i) {
    float limit = std::numeric_limits<float>::infinity();
    if (code_max > 0) {
      limit = code_max * packed.plane(PlaneRole::kGlobalScale).as<float>()[0];
      if (block_scales.data != nullptr) {
        const auto index = static_cast<size_t>(row * n_groups + i);
        limit *= e4m3_to_float(block_scales.as<uint8_t>()[index]);
      }
    }
    add_distortion(w + i * group, decoded + i * group, group, limit, sums);
  }
  return sums;
}

}  // namespace

double Distortion::snr_db() const {
  if (noise == 0) return std::numeric_limits<double>::infinity();
  return 10 * std::log10(signal / noise);
}

// Rows are summed on their own and then in their order, so that threads do not matter.
Distortion measure_distortion(const TensorView& weight, const PackedView& packed) {
  if (weight.device != nullptr) return packed.format->device_codec->distortion(weight, packed);
  const int64_t k = packed.k;
  std::vector<DistortionSums> rows(static_cast<size_t>(k == 0 ? 0 : packed.n));
#pragma omp parallel if (packed.n * k > kParallelElems)
  {
    std::vector<float> decoded(static_cast<size_t>(k));
    std::vector<uint16_t> buffer(static_cast<size_t>(k));
#pragma omp for schedule(static)
    for (int64_t row = 0; row < static_cast<int64_t>(rows.size()); ++row) {
      packed.format->decode_rows(packed, row, 1, decoded.data());
      const uint16_t* w = bf16_elems(weight, row * k, k, buffer.data());
      rows[static_cast<size_t>(row)] = measure_row(packed, row, w, decoded.data());
    }
  }
  Distortion total;
  for (const DistortionSums& row : rows) {
    total.signal += std::accumulate(row.signal.begin(), row.signal.end(), 0.0);
    total.noise += std::accumulate(row.noise.begin(), row.noise.end(), 0.0);
    total.n_saturated += row.n_saturated;
    total.n_flushed += row.n_flushed;
  }
  return total;
}

}  // namespace vernier::formats
