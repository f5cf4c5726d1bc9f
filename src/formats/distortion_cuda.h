// measure_distortion on a device, for any format: a block reads every n-th tile of 2048 weights and
// what they decode to, adds in FP64, and writes its sums; the host adds these in the blocks' order.
// The grid does not depend on the device, so the sums are the same everywhere. They differ from the
// host's in the order of additions only.
//
// A format gives `Decoder`, copied to the kernel:
//   float decode(int64_t i) const    what weight i (row-major) decodes to, as decode_rows
//   void decode_eight(int64_t first, float (&)[8]) const   the same of eight, first % 8 == 0
//   float limit(int64_t i) const     the largest value that its scale reaches, that of eight
#pragma once

#include <vector>

#include "formats/codes_cuda.h"
#include "formats/format.h"

namespace vernier::formats::cuda {

struct DistortionPart {
  double signal;
  double noise;
  unsigned long long n_saturated;
  unsigned long long n_flushed;
};

constexpr int kDistortionThreads = 256;
constexpr int64_t kMostDistortionBlocks = 1024;

__device__ inline void add_distortion(float w, float decoded, float limit, DistortionPart& part) {
  const double value = w, error = w - decoded;
  part.signal = fma(value, value, part.signal);  // the square is exact in FP64: one rounding
  part.noise = fma(error, error, part.noise);
  part.n_saturated += fabsf(w) > limit;
  part.n_flushed += w != 0 && decoded == 0;
}

template <class T>
__device__ inline T sum_of_block(T mine, T* of_warp) {
#pragma unroll
  for (int width = 16; width > 0; width /= 2) {
    mine += __shfl_down_sync(0xFFFFFFFFu, mine, width);
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  T sum = 0;
  for (int warp = 0; warp < kDistortionThreads / 32; ++warp) sum += of_warp[warp];
  __syncthreads();
  return sum;
}

template <bool kAligned, class Decoder>
__global__ void __launch_bounds__(kDistortionThreads)
    sum_distortion(const Bf16* w, int64_t count, Decoder decoder, DistortionPart* parts) {
  DistortionPart mine = {};
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kDistortionThreads * 8;
  int64_t first = (static_cast<int64_t>(blockIdx.x) * kDistortionThreads + threadIdx.x) * 8;
  for (; first + 8 <= count; first += stride) {
    float values[8], decoded[8];
    load_eight<kAligned>(w + first, values);
    decoder.decode_eight(first, decoded);
    const float limit = decoder.limit(first);
#pragma unroll
    for (int i = 0; i < 8; ++i) add_distortion(values[i], decoded[i], limit, mine);
  }
  for (int64_t i = first; i < count && i < first + 8; ++i) {
    add_distortion(bf16_to_float(w[i]), decoder.decode(i), decoder.limit(i), mine);
  }

  __shared__ double doubles[kDistortionThreads / 32];
  __shared__ unsigned long long counts[kDistortionThreads / 32];
  mine = {sum_of_block(mine.signal, doubles), sum_of_block(mine.noise, doubles),
          sum_of_block(mine.n_saturated, counts), sum_of_block(mine.n_flushed, counts)};
  if (threadIdx.x == 0) parts[blockIdx.x] = mine;
}

template <class Decoder>
Distortion measure_distortion(const TensorView& weight, const Decoder& decoder) {
  VERNIER_CHECK(weight.dtype == DType::kBF16);
  const int64_t count = weight.size();
  if (count == 0) return {};
  const int64_t n_blocks = std::min(ceil_div(count, kDistortionThreads * 8), kMostDistortionBlocks);
  std::vector<DistortionPart> parts(static_cast<size_t>(n_blocks));
  const auto n_bytes = static_cast<int64_t>(parts.size() * sizeof(DistortionPart));
  Tensor there(DType::kU8, {n_bytes}, weight.device);
  const Bf16* const w = weight.as<Bf16>().data();
  with_flag(is_aligned(w), [&](auto aligned) {
    sum_distortion<aligned()>
        <<<static_cast<unsigned>(n_blocks), kDistortionThreads, 0, stream_of(weight.device)>>>(
            w, count, decoder, reinterpret_cast<DistortionPart*>(there.data()));
  });
  check_launch();
  copy_bytes(parts.data(), nullptr, there.data(), weight.device, n_bytes);
  Distortion total;
  for (const DistortionPart& part : parts) {
    total.signal += part.signal;
    total.noise += part.noise;
    total.n_saturated += static_cast<int64_t>(part.n_saturated);
    total.n_flushed += static_cast<int64_t>(part.n_flushed);
  }
  return total;
}

}  // namespace vernier::formats::cuda
