// The chunked Mamba-2 scan in FP32, products without reduced precision.
//
// As the BF16 form (ssm_scan_bf16_cuda.cu), a block walks a piece in chunks of 64 tokens; the state
// stays in shared memory beside the chunk's x, B, C and M. 256 threads form a square of 16 x 16;
// each owns 4 x 4 outputs of a product, 16 apart, so that reads of a row are shared by a warp and
// reads of 16 rows, 4 elements longer than their content, lie in different banks. Columns of the
// state are padded with zeros to a multiple of 64.
//
// A chunk of a head of 64 x 128 is 3.7 MFLOP: about 8 us of a processor's FP32 units. 16384 tokens
// of Nano, 60 GFLOP and 671 MB, take about 1.5 ms, of Super 3 ms, where the product before takes 18
// and 50 ms.
//
// Error: sums of state_dim or 64 terms in FP32, in order; exponents exact to 2^-24 of their size.
#include "kernels/shared_memory_cuda.h"
#include "kernels/ssm_scan_plan_cuda.h"
#include "kernels/tensor_core_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kSide = 16;
constexpr int kThreads = kSide * kSide;
constexpr int kPerThread = kChunkTokens / kSide;
constexpr int kPad = 4;
using Piece = ScanPiece<float>;

// Rows of a tile in shared memory.
struct Tile {
  float* data;
  int stride;

  __device__ float* at(int row, int col) const { return data + row * stride + col; }
};

int padded_state(int state_dim) { return (state_dim + 63) / 64 * 64; }

// Where a block's data lie in its shared memory.
template <int kDim>
struct Memory {
  Tile x, b, c, state, m;
  float* dt;
  ChunkDecays* decays;

  __device__ Memory(float* start, int n_state) {
    const int state_stride = n_state + kPad;
    const auto take = [&](int n_rows, int stride) {
      const Tile tile{start, stride};
      start += n_rows * stride;
      return tile;
    };
    x = take(kChunkTokens, kDim + kPad);
    b = take(kChunkTokens, state_stride);
    c = take(kChunkTokens, state_stride);
    state = take(kDim, state_stride);
    m = take(kChunkTokens, kChunkTokens + kPad);
    dt = take(1, kChunkTokens).data;
    decays = reinterpret_cast<ChunkDecays*>(start);
  }
  static int bytes(int n_state) {
    const int n_floats = kChunkTokens * (kDim + kPad) +
                         (2 * kChunkTokens + kDim) * (n_state + kPad) +
                         kChunkTokens * (kChunkTokens + kPad) + kChunkTokens;
    return n_floats * 4 + static_cast<int>(sizeof(ChunkDecays));
  }
};

// Copies n_rows x n_cols elements, zeros around them up to n_tile_rows x n_tile_cols.
__device__ void load_tile(Tile to, int n_tile_rows, int n_tile_cols, const float* from,
                          int64_t stride, int n_rows, int n_cols, bool is_aligned) {
  const int n_packs = n_tile_cols / 4;
  for (int index = threadIdx.x; index < n_tile_rows * n_packs; index += kThreads) {
    const int row = index / n_packs;
    const int col = index % n_packs * 4;
    const int n_inside = row < n_rows ? n_cols - col : 0;
    const float* pack = n_inside > 0 ? from + row * stride + col : from;
    if (is_aligned) {
      copy_async(reinterpret_cast<std::byte*>(to.at(row, col)), pack, n_inside > 0);
    } else {
      for (int i = 0; i < 4; ++i) to.at(row, col)[i] = i < n_inside ? pack[i] : 0.0f;
    }
  }
}

template <int kDim>
__device__ void load_chunk(const Piece& piece, int64_t token, int n_tokens, int n_state,
                           const Memory<kDim>& to) {
  const ScanPlan& plan = piece.plan;
  load_tile(to.x, kChunkTokens, kDim, piece.x(token), plan.x_stride, n_tokens, piece.n_channels,
            plan.is_x_aligned);
  load_tile(to.b, kChunkTokens, n_state, piece.b(token), plan.b_stride, n_tokens, plan.state_dim,
            plan.is_bc_aligned);
  load_tile(to.c, kChunkTokens, n_state, piece.c(token), plan.c_stride, n_tokens, plan.state_dim,
            plan.is_bc_aligned);
  if (threadIdx.x < kChunkTokens) {
    const int row = threadIdx.x;
    to.dt[row] = row < n_tokens ? *piece.dt(token + row) : 0.0f;
  }
}

__device__ float4 pack_at(const float* from) { return *reinterpret_cast<const float4*>(from); }

// sums[i][j] += left row (16 i + y) . right row (16 j + x), of n_terms, a multiple of 4.
template <int kCols>
__device__ void multiply_rows(Tile left, Tile right, int n_terms,
                              float (&sums)[kPerThread][kCols]) {
  const int x = threadIdx.x % kSide;
  const int y = threadIdx.x / kSide;
#pragma unroll 2
  for (int k = 0; k < n_terms; k += 4) {
    float4 r[kCols];
#pragma unroll
    for (int j = 0; j < kCols; ++j) r[j] = pack_at(right.at(kSide * j + x, k));
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const float4 l = pack_at(left.at(kSide * i + y, k));
#pragma unroll
      for (int j = 0; j < kCols; ++j) {
        float& sum = sums[i][j];
        sum = fmaf(l.x, r[j].x, sum);
        sum = fmaf(l.y, r[j].y, sum);
        sum = fmaf(l.z, r[j].z, sum);
        sum = fmaf(l.w, r[j].w, sum);
      }
    }
  }
}

// M from the thread's part of C B^T.
__device__ void write_mix(const float (&g)[kPerThread][kPerThread], const float* dt,
                          const ChunkDecays& decays, Tile m) {
  const int x = threadIdx.x % kSide;
  const int y = threadIdx.x / kSide;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int l = kSide * i + y;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int s = kSide * j + x;
      const float decay = exp2f(exponent_between(decays.sum[l], decays.sum[s]));
      *m.at(l, s) = s <= l ? decay * g[i][j] * dt[s] : 0.0f;
    }
  }
}

// sums += M X.
template <int kCols>
__device__ void add_mix(Tile m, Tile x_tile, float (&sums)[kPerThread][kCols]) {
  const int x = threadIdx.x % kSide;
  const int y = threadIdx.x / kSide;
  for (int s = 0; s < kChunkTokens; s += 4) {
    float4 left[kPerThread];
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) left[i] = pack_at(m.at(kSide * i + y, s));
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int j = 0; j < kCols; ++j) {
        const float right = *x_tile.at(s + step, kSide * j + x);
#pragma unroll
        for (int i = 0; i < kPerThread; ++i) {
          const float factors[4] = {left[i].x, left[i].y, left[i].z, left[i].w};
          sums[i][j] = fmaf(factors[step], right, sums[i][j]);
        }
      }
    }
  }
}

// S = exp(c_L) S + (to_end X)^T B: a thread owns neighbouring rows and 4 neighbouring columns of
// every 64.
template <int kDim>
__device__ void update_state(const Memory<kDim>& memory, int n_state) {
  constexpr int kRows = kDim / kSide;
  const int row = static_cast<int>(threadIdx.x) / kSide * kRows;
  const ChunkDecays& decays = *memory.decays;
  const float decay = decays.from_start[kChunkTokens - 1];
  for (int col = static_cast<int>(threadIdx.x) % kSide * 4; col < n_state; col += kSide * 4) {
    float4 sums[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const float4 old = pack_at(memory.state.at(row + i, col));
      sums[i] = {decay * old.x, decay * old.y, decay * old.z, decay * old.w};
    }
#pragma unroll 4
    for (int s = 0; s < kChunkTokens; ++s) {
      const float4 b = pack_at(memory.b.at(s, col));
      const float scale = decays.to_end[s];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float x = scale * *memory.x.at(s, row + i);
        sums[i].x = fmaf(x, b.x, sums[i].x);
        sums[i].y = fmaf(x, b.y, sums[i].y);
        sums[i].z = fmaf(x, b.z, sums[i].z);
        sums[i].w = fmaf(x, b.w, sums[i].w);
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      *reinterpret_cast<float4*>(memory.state.at(row + i, col)) = sums[i];
    }
  }
}

// y = sums + D x.
template <int kCols>
__device__ void write_outputs(const Piece& piece, int64_t token, int n_tokens, Tile x_tile, float d,
                              const float (&sums)[kPerThread][kCols]) {
  const int x = threadIdx.x % kSide;
  const int y = threadIdx.x / kSide;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int l = kSide * i + y;
    if (l >= n_tokens) continue;
#pragma unroll
    for (int j = 0; j < kCols; ++j) {
      const int p = kSide * j + x;
      if (p < piece.n_channels) piece.y(token + l)[p] = fmaf(d, *x_tile.at(l, p), sums[i][j]);
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    scan(const __grid_constant__ ScanPlan plan, int n_state) {
  const Piece piece(plan, blockIdx.x);
  const Memory<kDim> memory(reinterpret_cast<float*>(dynamic_shared()), n_state);
  const ChunkDecays& decays = *memory.decays;
  const float a = plan.a[piece.head];
  const float d = plan.d[piece.head];
  constexpr int kCols = kDim / kSide;

  load_tile(memory.state, kDim, n_state, piece.state(), piece.sequence.state_stride,
            piece.n_channels, plan.state_dim, plan.is_state_aligned);
  for (int64_t token = 0; token < piece.sequence.n_rows; token += plan.chunk_tokens) {
    const int n_tokens = static_cast<int>(
        min(static_cast<int64_t>(plan.chunk_tokens), piece.sequence.n_rows - token));
    load_chunk(piece, token, n_tokens, n_state, memory);
    wait_for_copies();
    __syncthreads();
    if (threadIdx.x < 32) fill_decays(memory.dt, a, *memory.decays);
    float g[kPerThread][kPerThread] = {};
    multiply_rows(memory.c, memory.b, n_state, g);
    __syncthreads();
    write_mix(g, memory.dt, decays, memory.m);
    float y[kPerThread][kCols] = {};
    multiply_rows(memory.c, memory.state, n_state, y);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const float from_start = decays.from_start[kSide * i + threadIdx.x / kSide];
#pragma unroll
      for (float& sum : y[i]) sum *= from_start;
    }
    __syncthreads();  // M has arrived, nobody still reads the state
    add_mix(memory.m, memory.x, y);
    write_outputs(piece, token, n_tokens, memory.x, d, y);
    update_state(memory, n_state);
    __syncthreads();
  }
  for (int index = threadIdx.x; index < piece.n_channels * plan.state_dim; index += kThreads) {
    const int row = index / plan.state_dim;
    const int col = index % plan.state_dim;
    piece.state()[row * piece.sequence.state_stride + col] = *memory.state.at(row, col);
  }
}

template <int kDim>
void launch(const ScanPlan& plan, cudaStream_t stream) {
  const int n_state = padded_state(plan.state_dim);
  const int bytes = Memory<kDim>::bytes(n_state);
  VERNIER_CUDA(
      cudaFuncSetAttribute(scan<kDim>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  scan<kDim><<<static_cast<unsigned>(plan.n_pieces()), kThreads, bytes, stream>>>(plan, n_state);
  check_launch();
}

}  // namespace

int max_slice_f32(int state_dim, bool is_narrow) { return state_dim > 128 || is_narrow ? 32 : 64; }

void launch_scan_f32(const ScanPlan& plan, cudaStream_t stream) {
  if (plan.slice_dim <= 32) return launch<32>(plan, stream);
  launch<64>(plan, stream);
}

}  // namespace vernier::kernels::cuda
