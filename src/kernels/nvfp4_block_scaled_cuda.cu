// NVFP4 by NVFP4. Both kernels give a thread one block of 16 and its scale, padding included, so
// that the swizzled scales need no clearing before. Inputs: 32 bytes read (BF16), 9 written; weight
// scales: a byte read, a byte written, an eighth of what the product itself reads.
#include "kernels/nvfp4_block_scaled_cuda.h"

#include "formats/codes_cuda.h"
#include "formats/nvfp4.h"
#include "formats/rows.h"
#include "kernels/gemm_cuda.h"
#include "kernels/nvfp4_layout.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

using formats::kNvfp4Block;

constexpr int kThreads = 256;
constexpr int kBlockBytes = kNvfp4Block / 2;
// Rows of codes are whole 16-byte units.
constexpr int64_t kElemMultiple = 32;

// The place of a thread's block among the padded ones.
struct Place {
  int64_t row;
  int64_t block;
};

__device__ Place place_of_thread(int64_t n_blocks) {
  const int64_t padded = n_scale_tiles(n_blocks, kScaleTileBlocks) * kScaleTileBlocks;
  const int64_t index = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  return {index / padded, index % padded};
}

// A tile is a multiple of the threads' number: the grid is exactly the padded scales.
unsigned grid_for(int64_t n_rows, int64_t n_blocks) {
  static_assert(kScaleTileRows * kScaleTileBlocks % kThreads == 0);
  return static_cast<unsigned>(swizzled_scale_bytes(n_rows, n_blocks) / kThreads);
}

__global__ void swizzle_scales(const uint8_t* plain, int64_t n_rows, int64_t n_blocks,
                               uint8_t* swizzled) {
  const auto [row, block] = place_of_thread(n_blocks);
  const bool is_padding = row >= n_rows || block >= n_blocks;
  swizzled[swizzled_scale_index(row, block, n_blocks)] =
      is_padding ? 0 : plain[row * n_blocks + block];
}

// As formats::nvfp4_round_inputs, before it multiplies again. The largest magnitude is found among
// bit patterns: a NaN is larger than all numbers there and makes the scale a NaN.
template <class T>
__global__ void encode_inputs(const T* x, int64_t x_stride, int64_t n_rows, int64_t n_blocks,
                              const formats::InputCoding coding, uint8_t* codes,
                              uint8_t* swizzled) {
  const auto [row, block] = place_of_thread(n_blocks);
  uint8_t& scale = swizzled[swizzled_scale_index(row, block, n_blocks)];
  if (row >= n_rows || block >= n_blocks) {
    scale = 0;
    return;
  }
  float values[kNvfp4Block];
  uint32_t amax = 0;
#pragma unroll
  for (int elem = 0; elem < kNvfp4Block; ++elem) {
    const T* const input = x + row * x_stride + block * kNvfp4Block + elem;
    values[elem] = formats::cuda::map_one<T>(coding.map, formats::cuda::load_one(input));
    amax = max(amax, formats::float_bits(values[elem]) & 0x7FFFFFFFu);
  }
  scale = formats::nvfp4_input_block_scale(formats::bits_float(amax), coding.scale);
  const float unit = formats::nvfp4_unit(scale, coding.scale);
  uint8_t* out = codes + (row * n_blocks + block) * kBlockBytes;
#pragma unroll
  for (int byte = 0; byte < kBlockBytes; ++byte) {
    const auto code = [&](int elem) {
      return unit == 0 ? 0 : formats::float_to_e2m1(values[elem] / unit);
    };
    out[byte] = static_cast<uint8_t>(code(2 * byte) | code(2 * byte + 1) << 4);
  }
}

template <class T>
void launch_encode(ConstAnyMatrixView x, const formats::InputCoding& coding, Tensor& codes,
                   Tensor& scales) {
  const int64_t n_blocks = x.cols / kNvfp4Block;
  encode_inputs<<<grid_for(x.rows, n_blocks), kThreads, 0, stream_of(x.device)>>>(
      static_cast<const T*>(x.data), x.row_stride, x.rows, n_blocks, coding,
      codes.as<uint8_t>().data(), scales.as<uint8_t>().data());
  check_launch();
}

ConstAnyMatrixView e2m1_matrix(const std::byte* codes, int64_t rows, int64_t cols, Device* device) {
  return {codes, rows, cols, cols, DType::kF4, device};
}

Tensor swizzled_weight_scales(const formats::PackedView& weight) {
  const int64_t n_blocks = weight.k / kNvfp4Block;
  Tensor swizzled(DType::kU8, {swizzled_scale_bytes(weight.n, n_blocks)}, weight.device());
  swizzle_scales<<<grid_for(weight.n, n_blocks), kThreads, 0, stream_of(weight.device())>>>(
      weight.plane(formats::PlaneRole::kBlockScales).as<uint8_t>().data(), weight.n, n_blocks,
      swizzled.as<uint8_t>().data());
  check_launch();
  return swizzled;
}

}  // namespace

bool takes_block_scaled(const formats::PackedView& weight, const InputRule& rule) {
  return weight.format == &formats::kNvfp4Format && rule.format == weight.format &&
         weight.k % kElemMultiple == 0 && weight.n % kElemMultiple == 0 &&
         vernier::cuda(weight.device()).properties().major >= 10;
}

bool block_scaled_linear(ConstAnyMatrixView x, const formats::PackedView& weight,
                         const formats::InputCoding& coding, float alpha, AnyMatrixView y) {
  Tensor codes(DType::kU8, {x.rows, x.cols / 2}, x.device);
  Tensor scales(DType::kU8, {swizzled_scale_bytes(x.rows, x.cols / kNvfp4Block)}, x.device);
  if (x.dtype == DType::kF32) {
    launch_encode<float>(x, coding, codes, scales);
  } else {
    launch_encode<formats::cuda::Bf16>(x, coding, codes, scales);
  }
  const Tensor weight_scales = swizzled_weight_scales(weight);
  return try_multiply({.x = e2m1_matrix(codes.data(), x.rows, x.cols, x.device),
                       .weight = e2m1_matrix(weight.plane(formats::PlaneRole::kCodes).data,
                                             weight.n, weight.k, weight.device()),
                       .y = y,
                       .alpha = alpha,
                       .x_block_scales = scales.data(),
                       .weight_block_scales = weight_scales.view().data});
}

}  // namespace vernier::kernels::cuda
