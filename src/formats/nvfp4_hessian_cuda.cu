// Hessian-weighted NVFP4 block scales on a device. One thread block takes one block of inputs and a
// tile of 128 rows: the Hessian's triangle (544 bytes) and the 126 candidate scales lie in shared
// memory, and each thread keeps the 16 weights of its own row in registers. It reads 32 bytes, a
// whole sector, and writes one; neighbouring thread blocks take neighbouring inputs of the same
// rows, so that lines are shared in the L2 cache.
//
// Bound by arithmetic. For 16 weights and one code: 16 x 12 instructions to round and take the
// error, 136 products and 120 sums for t, 16 products and 15 sums for the loss: 479, no fused ones
// but in the quotient, since every step is rounded. The triangle comes in 34 broadcast loads of 16
// bytes, four cycles each at 128 bytes a cycle, as many as the arithmetic takes on four schedulers;
// two codes at a time halve that. All 126 codes are tried but for the largest (nvfp4_hessian.cc):
// some 60 thousand instructions for a block of weights.
#include "formats/codes_cuda.h"
#include "formats/nvfp4_hessian.h"
#include "formats/nvfp4_search.h"

namespace vernier::formats::cuda {
namespace {

constexpr int kBlock = static_cast<int>(kNvfp4Block);
constexpr int kThreads = 128;
constexpr int kResident = 5;
constexpr int kCodes = 2;  // at a time
static_assert(kE4m3MaxCode % kCodes == 0);
static_assert(kNvfp4TriangleElems % 4 == 0);

struct Shared {
  float4 triangle[kNvfp4TriangleElems / 4];
  float scale[kE4m3MaxCode + 1];
  float reciprocal[kE4m3MaxCode + 1];
};

// By the whole thread block, which it synchronizes. The identity for a Hessian of zeros.
__device__ void fill_triangle(const float* hessian, float* triangle) {
  bool has_nonzero = false;
  for (int elem = static_cast<int>(threadIdx.x); elem < kNvfp4HessianElems; elem += kThreads) {
    const int i = elem / kBlock, j = elem % kBlock;
    if (j < i) continue;
    const float value = nvfp4_triangle_elem(hessian, i, j);
    triangle[nvfp4_triangle_index(i, j)] = value;
    has_nonzero = has_nonzero || value != 0;
  }
  if (__syncthreads_or(has_nonzero)) return;
  const int i = static_cast<int>(threadIdx.x);
  if (i < kBlock) triangle[nvfp4_triangle_index(i, i)] = 1;
  __syncthreads();
}

// w - q(w). As in nvfp4_encode_cuda.cu the minimum takes 6 where the quotient overflows to a NaN.
template <bool kFast>
__device__ float error_of(float w, float scale, const Divider<kFast>& divide) {
  const float magnitude = fabsf(w);
  const float rounded = round_to_e2m1(fminf(divide(magnitude), kE2m1Max));
  const float error = magnitude - rounded * scale;
  return bits_float(float_bits(error) ^ (float_bits(w) & 0x80000000u));
}

// nvfp4_hessian_loss of kCodes codes, from `first` on.
template <bool kFast>
__device__ void losses_of(const float (&w)[kBlock], const Shared& shared, int first,
                          float (&losses)[kCodes]) {
  float dw[kCodes][kBlock];
#pragma unroll
  for (int c = 0; c < kCodes; ++c) {
    const float scale = shared.scale[first + c];
    const Divider<kFast> divide(scale, shared.reciprocal[first + c]);
#pragma unroll
    for (int i = 0; i < kBlock; ++i) dw[c][i] = error_of<kFast>(w[i], scale, divide);
  }
  float sum[kCodes][kBlock];
  float four[4];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    float t[kCodes];
#pragma unroll
    for (int j = i; j < kBlock; ++j) {
      const int index = nvfp4_triangle_index(i, j);
      if (index % 4 == 0) {
        const float4 loaded = shared.triangle[index / 4];
        four[0] = loaded.x, four[1] = loaded.y, four[2] = loaded.z, four[3] = loaded.w;
      }
#pragma unroll
      for (int c = 0; c < kCodes; ++c) {
        const float product = four[index % 4] * dw[c][j];
        t[c] = j == i ? product : t[c] + product;
      }
    }
#pragma unroll
    for (int c = 0; c < kCodes; ++c) sum[c][i] = dw[c][i] * t[c];
  }
#pragma unroll
  for (int c = 0; c < kCodes; ++c) {
#pragma unroll
    for (int width = 1; width < kBlock; width *= 2) {
#pragma unroll
      for (int i = 0; i < kBlock; i += 2 * width) sum[c][i] += sum[c][i + width];
    }
    losses[c] = sum[c][0];
  }
}

template <bool kFast>
__device__ uint8_t best_code(const float (&w)[kBlock], const Shared& shared) {
  float amax = 0;
#pragma unroll
  for (int i = 0; i < kBlock; ++i) amax = fmaxf(amax, fabsf(w[i]));
  float least = bits_float(0x7F800000u);
  int best = 1;
#pragma unroll 1
  for (int first = 1; first <= kE4m3MaxCode; first += kCodes) {
    if (first > 1 && 4 * amax <= shared.scale[first - 1]) break;
    // Else the compiler lifts the triangle's loads out of the loop, into registers it lacks.
    asm volatile("" ::: "memory");
    float losses[kCodes];
    losses_of<kFast>(w, shared, first, losses);
#pragma unroll
    for (int c = 0; c < kCodes; ++c) {
      if (losses[c] < least) {
        least = losses[c];
        best = first + c;
      }
    }
  }
  return static_cast<uint8_t>(best);
}

template <bool kAligned, bool kFast>
__global__ void __launch_bounds__(kThreads, kResident)
    choose_scales(const Bf16* weight, int64_t n, int64_t n_blocks, const float* hessians,
                  const __grid_constant__ Nvfp4SweepTable table, uint8_t* scales) {
  __shared__ Shared shared;
  for (int code = 1 + static_cast<int>(threadIdx.x); code <= kE4m3MaxCode; code += kThreads) {
    shared.scale[code] = table.scale[static_cast<size_t>(code)];
    shared.reciprocal[code] = 1.0f / shared.scale[code];
  }
  const int64_t block = blockIdx.x % n_blocks;
  fill_triangle(hessians + block * kNvfp4HessianElems, reinterpret_cast<float*>(shared.triangle));

  const int64_t row = blockIdx.x / n_blocks * kThreads + threadIdx.x;
  if (row >= n) return;
  const int64_t index = row * n_blocks + block;
  float w[kBlock];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Bf16x8 eight = load_eight<kAligned>(weight + index * kBlock + half * 8);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      w[half * 8 + 2 * i] = low_of(eight.pair[i]);
      w[half * 8 + 2 * i + 1] = high_of(eight.pair[i]);
    }
  }
  scales[index] = best_code<kFast>(w, shared);
}

}  // namespace

void nvfp4_choose_hessian_scales(const TensorView& weight, VectorView<const float> hessians,
                                 float ga, Arithmetic arithmetic, uint8_t* scales) {
  const int64_t n = weight.shape[0], n_blocks = weight.shape[1] / kBlock;
  const int64_t grid = ceil_div(n, kThreads) * n_blocks;
  if (grid == 0) return;
  VERNIER_CHECK(grid < int64_t{1} << 31);
  const Nvfp4SweepTable table(ga, arithmetic);
  const Bf16* const w = weight.as<Bf16>().data();
  with_flag(divides_exactly(table.scale[1], table.scale[kE4m3MaxCode]), [&](auto fast) {
    with_flag(is_aligned(w), [&](auto aligned) {
      choose_scales<aligned(), fast()>
          <<<static_cast<unsigned>(grid), kThreads, 0, stream_of(weight.device)>>>(
              w, n, n_blocks, hessians.data, table, scales);
    });
  });
  check_launch();
}

}  // namespace vernier::formats::cuda
