// Few tokens: bound by reading the weight, so that all else serves to keep loads in flight.
//
// A block computes 16 outputs of one product for all its tokens; its warps share k, each taking
// every n_warps-th chunk. Within a warp, four lanes stand side by side along k for each of 8 rows:
// a lane loads 16 bytes of row r and of row r + 8 and the same stretch of x for token r, and feeds
// m16n8k16 tensor instructions with them. Which of an instruction's k a weight takes is free as
// long as x does the same, so the fragments are what was loaded, with no exchange between lanes.
// Tensor instructions rather than multiply-adds because 8 tokens of 4-bit weights would need more
// of those than the device has. Several chunks are loaded before the first is used. The warps' sums
// meet in shared memory and are added in the order of warps.
//
// Bytes: the packed weight once from memory; x, at most half a megabyte, once per block from cache.
#include "kernels/few_tokens_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "formats/nvfp4.h"
#include "formats/rows.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kRows = 16;       // outputs of a block
constexpr int kTileTokens = 8;  // tokens of one tensor instruction
constexpr int kMostWarps = 16;
constexpr int kLanesAlongK = 4;
constexpr int kPadded = kRows + 1;  // outputs of a token in shared memory, padded against conflicts

// One product as the kernel sees it. Passed by value, so that nothing is uploaded.
struct Operands {
  const uint8_t* codes;
  const uint8_t* block_scales;
  const __nv_bfloat16* x;
  void* y;
  float alpha;
  int n_tokens;
};
constexpr int kProductsOfLaunch = 64;
struct OperandTable {
  Operands products[kProductsOfLaunch];
};
static_assert(sizeof(OperandTable) < 3 << 10);  // kernel parameters have 4 KiB

struct Sizes {
  int64_t n, k, x_stride, y_stride;
};

// Streamed: a weight is used once, x should keep its place in the cache.
__device__ uint4 load_streamed(const uint8_t* from) {
  return __ldcs(reinterpret_cast<const uint4*>(from));
}

__device__ uint32_t bits(__nv_bfloat162 pair) { return *reinterpret_cast<uint32_t*>(&pair); }
__device__ __nv_bfloat162 pair_of(uint32_t bits) {
  return *reinterpret_cast<__nv_bfloat162*>(&bits);
}

// Two E4M3 codes as BF16, exactly.
__device__ uint32_t e4m3_pair(uint32_t codes) {
  const __half2_raw halves =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3);
  return bits(__float22bfloat162_rn(__half22float2(__half2(halves))));
}

// The stored forms of weights. kElems are what a lane loads of a row at a time; `decode` gives
// elements [8 step, 8 step + 8) as pairs of BF16.
struct Bf16Weight {
  static constexpr int kElems = 8;
  static constexpr int kChunksInFlight = 4;
  struct Piece {
    uint4 codes;
  };
  static __device__ Piece load(const Operands& from, int64_t row, int64_t k, int64_t col) {
    return {load_streamed(from.codes + (row * k + col) * 2)};
  }
  static __device__ uint4 decode(const Piece& piece, int) { return piece.codes; }
};

struct E4m3Weight {
  static constexpr int kElems = 16;
  static constexpr int kChunksInFlight = 4;
  struct Piece {
    uint4 codes;
  };
  static __device__ Piece load(const Operands& from, int64_t row, int64_t k, int64_t col) {
    return {load_streamed(from.codes + row * k + col)};
  }
  static __device__ uint4 decode(const Piece& piece, int step) {
    const uint32_t low = step == 0 ? piece.codes.x : piece.codes.z;
    const uint32_t high = step == 0 ? piece.codes.y : piece.codes.w;
    return {e4m3_pair(low & 0xFFFF), e4m3_pair(low >> 16), e4m3_pair(high & 0xFFFF),
            e4m3_pair(high >> 16)};
  }
};

struct Nvfp4Weight {
  static constexpr int kElems = 32;  // two blocks
  static constexpr int kChunksInFlight = 2;
  struct Piece {
    uint4 codes;
    uint16_t block_scales;
  };
  static __device__ Piece load(const Operands& from, int64_t row, int64_t k, int64_t col) {
    const int64_t first = row * k + col;
    const auto* scales = reinterpret_cast<const uint16_t*>(from.block_scales + first / 16);
    return {load_streamed(from.codes + first / 2), __ldcs(scales)};
  }
  static __device__ uint4 decode(const Piece& piece, int step) {
    const uint32_t words[4] = {piece.codes.x, piece.codes.y, piece.codes.z, piece.codes.w};
    const uint32_t scale = (piece.block_scales >> (step / 2 * 8)) & 0xFF;
    const __nv_bfloat162 scales = pair_of(e4m3_pair(scale | scale << 8));
    const uint2 low = decode_four(words[step], scales);
    const uint2 high = decode_four(words[step] >> 16, scales);
    return {low.x, low.y, high.x, high.y};
  }

 private:
  // Magnitudes 0 .5 1 1.5 2 3 4 6 in BF16 are 0000 3F00 3F80 3FC0 4000 4040 4080 40C0: each byte of
  // four codes comes from a table of eight in one permutation, whose selector is the codes. The
  // product with a block scale has 6 significant bits: exact. Code 8 becomes -0, which adds
  // nothing.
  static __device__ uint2 decode_four(uint32_t codes, __nv_bfloat162 scales) {
    const uint32_t selector = codes & 0x7777;
    const uint32_t low = __byte_perm(0xC0800000, 0xC0804000, selector);
    const uint32_t high = __byte_perm(0x3F3F3F00, 0x40404040, selector);
    const uint32_t first =
        __byte_perm(low, high, 0x5140) | (codes & 0x8) << 12 | (codes & 0x80) << 24;
    const uint32_t second =
        __byte_perm(low, high, 0x7362) | (codes & 0x800) << 4 | (codes & 0x8000) << 16;
    return {bits(__hmul2(pair_of(first), scales)), bits(__hmul2(pair_of(second), scales))};
  }
};

// sums [16 rows, 8 tokens] += weights [16, 16] x [16, 8].
__device__ void multiply_add(float (&sums)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                             uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ void store(float* to, float value) { *to = value; }
__device__ void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

template <class Weight, int kTiles>
struct Sums {
  float of_tile[kTiles][4] = {};

  // One chunk: a lane's pieces of its two rows against the same stretch of its token of each tile.
  __device__ void add(const typename Weight::Piece& low, const typename Weight::Piece& high,
                      const Operands& from, const Sizes& sizes, int64_t col) {
    const int token = threadIdx.x % 32 / kLanesAlongK;
#pragma unroll
    for (int step = 0; step < Weight::kElems / 8; ++step) {
      const uint4 a = Weight::decode(low, step);
      const uint4 b = Weight::decode(high, step);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int64_t row = tile * kTileTokens + token;
        uint4 x = {};
        if (row < from.n_tokens && col < sizes.k) {
          x = __ldg(reinterpret_cast<const uint4*>(from.x + row * sizes.x_stride + col + step * 8));
        }
        multiply_add(of_tile[tile], a.x, b.x, a.y, b.y, x.x, x.y);
        multiply_add(of_tile[tile], a.z, b.z, a.w, b.w, x.z, x.w);
      }
    }
  }
};

// The sums of this warp's chunks.
template <class Weight, int kTiles>
__device__ Sums<Weight, kTiles> sums_of_warp(const Operands& from, const Sizes& sizes) {
  constexpr int kFlight = Weight::kChunksInFlight;
  constexpr int kChunk = kLanesAlongK * Weight::kElems;
  const int n_warps = blockDim.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t low_row = blockIdx.x * int64_t{kRows} + lane / kLanesAlongK;
  const int64_t high_row = low_row + kRows / 2;
  Sums<Weight, kTiles> sums;
  int64_t col = threadIdx.x / 32 * int64_t{kChunk} + lane % kLanesAlongK * Weight::kElems;
  // Lanes leave the loop together: a warp's chunk either begins within k or does not.
  const int64_t lane_offset = lane % kLanesAlongK * Weight::kElems;
  for (; col - lane_offset < sizes.k; col += int64_t{kFlight} * n_warps * kChunk) {
    typename Weight::Piece low[kFlight] = {};
    typename Weight::Piece high[kFlight] = {};
#pragma unroll
    for (int flight = 0; flight < kFlight; ++flight) {
      const int64_t at = col + int64_t{flight} * n_warps * kChunk;
      if (at >= sizes.k) continue;
      if (low_row < sizes.n) low[flight] = Weight::load(from, low_row, sizes.k, at);
      if (high_row < sizes.n) high[flight] = Weight::load(from, high_row, sizes.k, at);
    }
#pragma unroll
    for (int flight = 0; flight < kFlight; ++flight) {
      const int64_t at = col + int64_t{flight} * n_warps * kChunk;
      sums.add(low[flight], high[flight], from, sizes, at);
    }
  }
  return sums;
}

template <class Weight, int kTiles, class Out>
__global__ void __launch_bounds__(kMostWarps * 32)
    few_tokens_kernel(const __grid_constant__ OperandTable table,
                      const __grid_constant__ Sizes sizes) {
  extern __shared__ float partial[];  // [warp][token][kPadded]
  constexpr int kTokens = kTiles * kTileTokens;
  const Operands& from = table.products[blockIdx.y];
  const Sums<Weight, kTiles> sums = sums_of_warp<Weight, kTiles>(from, sizes);

  const int lane = threadIdx.x % 32;
  float* mine = partial + threadIdx.x / 32 * (kTokens * kPadded);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int index = 0; index < 4; ++index) {
      const int token = tile * kTileTokens + lane % kLanesAlongK * 2 + index % 2;
      mine[token * kPadded + lane / kLanesAlongK + index / 2 * (kRows / 2)] =
          sums.of_tile[tile][index];
    }
  }
  __syncthreads();
  const int n_warps = blockDim.x / 32;
  for (int index = threadIdx.x; index < kTokens * kRows; index += blockDim.x) {
    const int token = index / kRows;
    const int64_t row = blockIdx.x * int64_t{kRows} + index % kRows;
    if (token >= from.n_tokens || row >= sizes.n) continue;
    float sum = 0;
    for (int warp = 0; warp < n_warps; ++warp) {
      sum += partial[(warp * kTokens + token) * kPadded + index % kRows];
    }
    store(static_cast<Out*>(from.y) + token * sizes.y_stride + row, from.alpha * sum);
  }
}

// Warps of a block: as many as find a full set of chunks in flight, more for a short weight, whose
// blocks alone would not fill the device.
int warps_for(const Sizes& sizes, int chunk, int chunks_in_flight, int n_multiprocessors) {
  const int64_t n_chunks = (sizes.k + chunk - 1) / chunk;
  const int64_t n_blocks = (sizes.n + kRows - 1) / kRows;
  const int most = n_blocks < 2 * n_multiprocessors ? kMostWarps : kMostWarps / 2;
  int n_warps = 1;
  while (n_warps < most && int64_t{n_warps} * chunks_in_flight < n_chunks) n_warps *= 2;
  return n_warps;
}

Operands operands_of(const FewTokensProduct& product) {
  const auto plane = [&](formats::PlaneRole role) {
    return reinterpret_cast<const uint8_t*>(product.weight->plane(role).data);
  };
  return {plane(formats::PlaneRole::kCodes),
          plane(formats::PlaneRole::kBlockScales),
          static_cast<const __nv_bfloat16*>(product.x.data),
          product.y.data,
          product.alpha,
          static_cast<int>(product.y.rows)};
}

template <class Weight, int kTiles, class Out>
void launch_tiles(std::span<const FewTokensProduct> products) {
  const FewTokensProduct& first = products[0];
  const Sizes sizes{first.y.cols, first.x.cols, first.x.row_stride, first.y.row_stride};
  const int n_warps = warps_for(sizes, kLanesAlongK * Weight::kElems, Weight::kChunksInFlight,
                                vernier::cuda(first.y.device).properties().multiProcessorCount);
  const size_t shared = sizeof(float) * n_warps * kTiles * kTileTokens * kPadded;
  OperandTable table;
  std::ranges::transform(products, table.products, operands_of);
  const dim3 grid(static_cast<unsigned>((sizes.n + kRows - 1) / kRows),
                  static_cast<unsigned>(products.size()));
  few_tokens_kernel<Weight, kTiles, Out>
      <<<grid, n_warps * 32, shared, stream_of(first.y.device)>>>(table, sizes);
  check_launch();
}

template <class Weight, class Out>
void launch_out(std::span<const FewTokensProduct> products) {
  int64_t n_tokens = 0;
  for (const FewTokensProduct& product : products) {
    n_tokens = std::max(n_tokens, product.y.rows);
  }
  VERNIER_CHECK(n_tokens <= kFewTokens);
  if (n_tokens <= kTileTokens) return launch_tiles<Weight, 1, Out>(products);
  if (n_tokens <= 2 * kTileTokens) return launch_tiles<Weight, 2, Out>(products);
  launch_tiles<Weight, 4, Out>(products);
}

template <class Weight>
void launch(std::span<const FewTokensProduct> products) {
  if (products[0].y.dtype == DType::kF32) return launch_out<Weight, float>(products);
  launch_out<Weight, __nv_bfloat16>(products);
}

bool is_nvfp4(const formats::PackedView& weight) { return weight.format == &formats::kNvfp4Format; }

bool is_plain(const formats::PackedView& weight, const formats::Format& format, DType codes) {
  return weight.format == &format && weight.plane(formats::PlaneRole::kCodes).dtype == codes;
}

bool is_multiple(const void* address, uintptr_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

}  // namespace

bool takes_few_tokens(const formats::PackedView& weight) {
  if (!is_multiple(weight.plane(formats::PlaneRole::kCodes).data, 16)) return false;
  if (is_nvfp4(weight)) {
    return weight.k % Nvfp4Weight::kElems == 0 &&
           is_multiple(weight.plane(formats::PlaneRole::kBlockScales).data, sizeof(uint16_t));
  }
  if (is_plain(weight, formats::kFp8E4m3Format, DType::kF8E4M3)) {
    return weight.k % E4m3Weight::kElems == 0;
  }
  return is_plain(weight, formats::kBf16Format, DType::kBF16) && weight.k % Bf16Weight::kElems == 0;
}

bool has_loadable_rows(ConstAnyMatrixView x) {
  return x.dtype == DType::kBF16 && is_multiple(x.data, 16) && x.row_stride % 8 == 0;
}

void few_tokens(std::span<const FewTokensProduct> products) {
  while (!products.empty()) {
    const auto part = products.first(std::min<size_t>(products.size(), kProductsOfLaunch));
    const formats::PackedView& weight = *part[0].weight;
    if (is_nvfp4(weight)) {
      launch<Nvfp4Weight>(part);
    } else if (weight.format == &formats::kFp8E4m3Format) {
      launch<E4m3Weight>(part);
    } else {
      launch<Bf16Weight>(part);
    }
    products = products.subspan(part.size());
  }
}

}  // namespace vernier::kernels::cuda
