// The chunked Mamba-2 scan in BF16 on tensor cores: the state never leaves the registers.
//
// A block of four warps walks a piece (ssm_scan_plan_cuda.h) in chunks of 64 tokens. Warp w owns
// the chunk's tokens 16 w .. 16 w + 15 of the outputs and a quarter of the state's columns:
//   1. G = C B^T and Y = C S^T, both over state_dim, from one read of C; meanwhile the first warp
//      sums dt A;
//   2. Y = exp(c_l) Y + M X + D x with M = exp(c_l - c_s) dt_s G for s <= l, rounded to BF16 on its
//      way from sums to factors, in registers;
//   3. S = exp(c_L) S + X^T (exp(c_L - c_s) dt_s B), kept in FP32, and a copy rounded to BF16 for
//      the next chunk's C S^T.
// Two barriers a chunk; the next chunk's x, B, C and dt are copied into the second of two buffers
// meanwhile (state_dim above 128: one buffer, so that two blocks still share a processor). Tokens
// from 32 on are left out where none of the warp's tokens sees them. Rows of tiles are 16 bytes
// longer than their elements, so that eight of them lie in different banks.
//
// A chunk of a head of 64 x 128 is 3.3 MFLOP of products (0.8 G, 1.0 C S^T, 0.4 M X, 1.0 S), 216
// KiB of reads of shared memory, 1 us of a processor, and 48 KiB of the second-level cache. A
// head's B and C are shared by its group, so that memory sees x, y, B and C once: 16384 tokens of
// Nano (64 heads) are 54 GFLOP and 335 MB, 0.11 ms at 3 TB/s; the products, at half of what the
// reads of shared memory allow, take 0.25 ms. Super (128 heads): 108 GFLOP and 604 MB, 0.20 ms, and
// 0.5 ms. G is computed again for every slice of a head.
//
// Error: each term of a sum is rounded twice or thrice by 2^-8 (M or to_end B, once; S; y).
#include "kernels/shared_memory_cuda.h"
#include "kernels/ssm_scan_plan_cuda.h"
#include "kernels/tensor_core_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
using Piece = ScanPiece<uint16_t>;

// Rows of kCols BF16.
template <int kCols>
struct Tile {
  static constexpr int kRowBytes = kCols * 2 + 16;
  std::byte* data;

  __device__ std::byte* at(int row, int col) const { return data + row * kRowBytes + col * 2; }
};

// Where a block's data lie in its shared memory.
template <int kDim, int kState, int kBuffers>
struct Layout {
  static constexpr int kX = 0;
  static constexpr int kB = kX + kChunkTokens * Tile<kDim>::kRowBytes;
  static constexpr int kC = kB + kChunkTokens * Tile<kState>::kRowBytes;
  static constexpr int kDt = kC + kChunkTokens * Tile<kState>::kRowBytes;
  static constexpr int kBufferBytes = kDt + kChunkTokens * 4;
  static constexpr int kStateCopy = kBuffers * kBufferBytes;
  static constexpr int kDecays = kStateCopy + kDim * Tile<kState>::kRowBytes;
  static constexpr int kBytes = kDecays + static_cast<int>(sizeof(ChunkDecays));
  static_assert(kDim <= kState, "outputs are gathered in the rows of C");
};

// A chunk's inputs in one of the buffers.
template <int kDim, int kState>
struct Chunk {
  Tile<kDim> x;
  Tile<kState> b;
  Tile<kState> c;
  float* dt;
};

template <class Layout, int kDim, int kState>
__device__ Chunk<kDim, kState> chunk_in(std::byte* memory, int buffer) {
  std::byte* start = memory + buffer * Layout::kBufferBytes;
  return {{start + Layout::kX},
          {start + Layout::kB},
          {start + Layout::kC},
          reinterpret_cast<float*>(start + Layout::kDt)};
}

// Four bytes from global to shared memory, or zeros.
__device__ void copy_async_float(float* to, const float* from, bool is_inside) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(is_inside ? 4 : 0)
               : "memory");
}

// Copies n_rows x n_cols elements, zeros around them.
template <int kCols>
__device__ void load_tile(Tile<kCols> to, const uint16_t* from, int64_t stride, int n_rows,
                          int n_cols, bool is_aligned) {
  constexpr int kPacks = kCols / 8;
#pragma unroll 4
  for (int index = threadIdx.x; index < kChunkTokens * kPacks; index += kThreads) {
    const int row = index / kPacks;
    const int col = index % kPacks * 8;
    const int n_inside = row < n_rows ? n_cols - col : 0;
    const uint16_t* pack = n_inside > 0 ? from + row * stride + col : from;
    if (is_aligned) {
      copy_async(to.at(row, col), pack, n_inside > 0);
    } else {
      auto* elems = reinterpret_cast<uint16_t*>(to.at(row, col));
      for (int i = 0; i < 8; ++i) elems[i] = i < n_inside ? pack[i] : uint16_t{0};
    }
  }
}

template <int kDim, int kState>
__device__ void load_chunk(const Piece& piece, int64_t token, const Chunk<kDim, kState>& to) {
  const ScanPlan& plan = piece.plan;
  const int n_tokens =
      static_cast<int>(min(static_cast<int64_t>(plan.chunk_tokens), piece.sequence.n_rows - token));
  load_tile(to.x, piece.x(token), plan.x_stride, n_tokens, piece.n_channels, plan.is_x_aligned);
  load_tile(to.b, piece.b(token), plan.b_stride, n_tokens, plan.state_dim, plan.is_bc_aligned);
  load_tile(to.c, piece.c(token), plan.c_stride, n_tokens, plan.state_dim, plan.is_bc_aligned);
  if (threadIdx.x < kChunkTokens) {
    const int row = threadIdx.x;
    const bool is_inside = row < n_tokens;
    copy_async_float(to.dt + row, piece.dt(token + (is_inside ? row : 0)), is_inside);
  }
}

// Both values of a pair of BF16 scaled, and rounded again.
__device__ uint32_t scaled_pair(uint32_t pair, float2 scale) {
  return bf16_pair(__uint_as_float(pair << 16) * scale.x,
                   __uint_as_float(pair & 0xFFFF0000u) * scale.y);
}

// Addresses of the lane's row for load_fragments, of a tile's 16 x 16 elements from (row, col) on:
// as the A of a product or, transposed, as its B; or the other way round.
template <int kCols>
__device__ const std::byte* rows_first(Tile<kCols> tile, int row, int col) {
  const int lane = threadIdx.x % 32;
  return tile.at(row + lane % 16, col + lane / 16 * 8);
}
template <int kCols>
__device__ const std::byte* cols_first(Tile<kCols> tile, int row, int col) {
  const int lane = threadIdx.x % 32;
  return tile.at(row + lane % 8 + lane / 16 * 8, col + lane / 8 % 2 * 8);
}

// A warp's quarter of the state's columns, in fragments: element [m][n] holds rows 16 m + lane / 4
// and 8 below, columns first_col + 8 n + lane % 4 * 2 and the next.
template <int kDim, int kState>
struct WarpState {
  static constexpr int kCols = kState / kWarps;
  float values[kDim / 16][kCols / 8][4];

  // body(row, col, first of two values) for all pairs of the lane's values.
  template <class Body>
  __device__ void for_each_pair(Body body) {
    const int lane = threadIdx.x % 32;
    const int first_col = static_cast<int>(threadIdx.x) / 32 * kCols + lane % 4 * 2;
#pragma unroll
    for (int m = 0; m < kDim / 16; ++m) {
#pragma unroll
      for (int n = 0; n < kCols / 8; ++n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          body(16 * m + 8 * half + lane / 4, first_col + 8 * n, values[m][n] + 2 * half);
        }
      }
    }
  }

  __device__ void load(const Piece& piece) {
    for_each_pair([&](int row, int col, float* pair) {
      const float* from = piece.state() + row * piece.sequence.state_stride + col;
      const int n_inside = row < piece.n_channels ? piece.plan.state_dim - col : 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) pair[i] = i < n_inside ? from[i] : 0.0f;
    });
  }
  __device__ void store(const Piece& piece) {
    for_each_pair([&](int row, int col, const float* pair) {
      float* to = piece.state() + row * piece.sequence.state_stride + col;
      const int n_inside = row < piece.n_channels ? piece.plan.state_dim - col : 0;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i < n_inside) to[i] = pair[i];
      }
    });
  }
  __device__ void copy_rounded(Tile<kState> to) {
    for_each_pair([&](int row, int col, const float* pair) {
      *reinterpret_cast<uint32_t*>(to.at(row, col)) = bf16_pair(pair[0], pair[1]);
    });
  }

  // S = exp(c_L) S + X^T (to_end B).
  __device__ void update(const Chunk<kDim, kState>& chunk, const ChunkDecays& decays) {
    const int lane = threadIdx.x % 32;
    const int first_col = static_cast<int>(threadIdx.x) / 32 * kCols;
    const float decay = decays.from_start[kChunkTokens - 1];
    for_each_pair([&](int, int, float* pair) {
      pair[0] *= decay;
      pair[1] *= decay;
    });
#pragma unroll
    for (int s = 0; s < kChunkTokens; s += 16) {
      const float* scale = decays.to_end + s + lane % 4 * 2;
      const float2 scales[2] = {*reinterpret_cast<const float2*>(scale),
                                *reinterpret_cast<const float2*>(scale + 8)};
      uint32_t b[kCols / 16][4];
#pragma unroll
      for (int n = 0; n < kCols / 16; ++n) {
        load_fragments_transposed(b[n], rows_first(chunk.b, s, first_col + 16 * n));
#pragma unroll
        for (int i = 0; i < 4; ++i) b[n][i] = scaled_pair(b[n][i], scales[i % 2]);
      }
#pragma unroll
      for (int m = 0; m < kDim / 16; ++m) {
        uint32_t x[4];
        load_fragments_transposed(x, cols_first(chunk.x, s, 16 * m));
#pragma unroll
        for (int n = 0; n < kCols / 16; ++n) {
          multiply_add(values[m][2 * n], x, b[n][0], b[n][1]);
          multiply_add(values[m][2 * n + 1], x, b[n][2], b[n][3]);
        }
      }
    }
  }
};

// A warp's 16 tokens of the outputs, in fragments.
template <int kDim, int kState>
struct WarpOutputs {
  float g[kChunkTokens / 8][4];  // C B^T: this warp's tokens x all tokens
  float y[kDim / 8][4];          // this warp's tokens x channels

  __device__ static int first_token() { return static_cast<int>(threadIdx.x) / 32 * 16; }
  // Whether the warp's tokens see those from 32 on.
  __device__ static bool sees_second_half() { return first_token() >= kChunkTokens / 2; }

  // g and y = C S^T.
  __device__ void multiply(const Chunk<kDim, kState>& chunk, Tile<kState> state) {
#pragma unroll
    for (auto& fragment : g) fragment[0] = fragment[1] = fragment[2] = fragment[3] = 0;
#pragma unroll
    for (auto& fragment : y) fragment[0] = fragment[1] = fragment[2] = fragment[3] = 0;
#pragma unroll
    for (int k = 0; k < kState; k += 16) {
      uint32_t c[4];
      load_fragments(c, rows_first(chunk.c, first_token(), k));
      multiply_g<0>(c, chunk.b, k);
#pragma unroll
      for (int p = 0; p < kDim; p += 16) {
        uint32_t s[4];
        load_fragments(s, cols_first(state, p, k));
        multiply_add(y[p / 8], c, s[0], s[1]);
        multiply_add(y[p / 8 + 1], c, s[2], s[3]);
      }
    }
    if (!sees_second_half()) return;
#pragma unroll
    for (int k = 0; k < kState; k += 16) {
      uint32_t c[4];
      load_fragments(c, rows_first(chunk.c, first_token(), k));
      multiply_g<kChunkTokens / 2>(c, chunk.b, k);
    }
  }

  // y = exp(c_l) y + M X + D x.
  __device__ void mix(const Chunk<kDim, kState>& chunk, const ChunkDecays& decays, float d) {
    const int lane = threadIdx.x % 32;
    const int token = first_token() + lane / 4;
    const float from_start[2] = {decays.from_start[token], decays.from_start[token + 8]};
#pragma unroll
    for (auto& fragment : y) {
#pragma unroll
      for (int i = 0; i < 4; ++i) fragment[i] *= from_start[i / 2];
    }
    mix_half<0>(chunk, decays);
    if (sees_second_half()) mix_half<kChunkTokens / 2>(chunk, decays);
#pragma unroll
    for (int p = 0; p < kDim; p += 8) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t x =
            *reinterpret_cast<const uint32_t*>(chunk.x.at(token + 8 * half, p + lane % 4 * 2));
        y[p / 8][2 * half] += d * __uint_as_float(x << 16);
        y[p / 8][2 * half + 1] += d * __uint_as_float(x & 0xFFFF0000u);
      }
    }
  }

  // Writes y, by way of the warp's rows of `gathered`: rows of 16 bytes then go out side by side.
  __device__ void store(const Piece& piece, int64_t token, Tile<kState> gathered) const {
    const ScanPlan& plan = piece.plan;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int p = 0; p < kDim; p += 8) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        std::byte* pair = gathered.at(first_token() + lane / 4 + 8 * half, p + lane % 4 * 2);
        *reinterpret_cast<uint32_t*>(pair) = bf16_pair(y[p / 8][2 * half], y[p / 8][2 * half + 1]);
      }
    }
    __syncwarp();
    const int64_t n_tokens =
        min(static_cast<int64_t>(plan.chunk_tokens), piece.sequence.n_rows - token);
    constexpr int kPacks = kDim / 8;
    for (int index = lane; index < 16 * kPacks; index += 32) {
      const int row = first_token() + index / kPacks;
      const int col = index % kPacks * 8;
      if (row >= n_tokens || col >= piece.n_channels) continue;
      const std::byte* from = gathered.at(row, col);
      uint16_t* to = piece.y(token + row) + col;
      if (plan.is_y_aligned) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
        const int n_elems = min(8, piece.n_channels - col);
        for (int i = 0; i < n_elems; ++i) to[i] = reinterpret_cast<const uint16_t*>(from)[i];
      }
    }
  }

 private:
  // g of the tokens [kFirst, kFirst + 32), k .. k + 15 of the sum.
  template <int kFirst>
  __device__ void multiply_g(const uint32_t (&c)[4], Tile<kState> b_tile, int k) {
#pragma unroll
    for (int s = kFirst; s < kFirst + kChunkTokens / 2; s += 16) {
      uint32_t b[4];
      load_fragments(b, cols_first(b_tile, s, k));
      multiply_add(g[s / 8], c, b[0], b[1]);
      multiply_add(g[s / 8 + 1], c, b[2], b[3]);
    }
  }

  // y += M X over the tokens [kFirst, kFirst + 32).
  template <int kFirst>
  __device__ void mix_half(const Chunk<kDim, kState>& chunk, const ChunkDecays& decays) {
    const int lane = threadIdx.x % 32;
    const int token = first_token() + lane / 4;
    const float2 later[2] = {decays.sum[token], decays.sum[token + 8]};
#pragma unroll
    for (int s = kFirst; s < kFirst + kChunkTokens / 2; s += 16) {
      uint32_t m[4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // columns 8 i .. 8 i + 7 of M's 16
        const int earlier = s + 8 * i + lane % 4 * 2;
        const float4 sums = *reinterpret_cast<const float4*>(decays.sum + earlier);
        const float2 dt = *reinterpret_cast<const float2*>(chunk.dt + earlier);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float* products = g[s / 8 + i] + 2 * half;
          const float low = fast_exp2(exponent_between(later[half], {sums.x, sums.y})) * dt.x;
          const float high = fast_exp2(exponent_between(later[half], {sums.z, sums.w})) * dt.y;
          m[2 * i + half] = bf16_pair(earlier <= token + 8 * half ? low * products[0] : 0.0f,
                                      earlier < token + 8 * half ? high * products[1] : 0.0f);
        }
      }
#pragma unroll
      for (int p = 0; p < kDim; p += 16) {
        uint32_t x[4];
        load_fragments_transposed(x, rows_first(chunk.x, s, p));
        multiply_add(y[p / 8], m, x[0], x[1]);
        multiply_add(y[p / 8 + 1], m, x[2], x[3]);
      }
    }
  }
};

template <int kDim, int kState, int kBuffers>
__global__ void __launch_bounds__(kThreads, 2) scan(const __grid_constant__ ScanPlan plan) {
  using Memory = Layout<kDim, kState, kBuffers>;
  std::byte* memory = dynamic_shared();
  const Piece piece(plan, blockIdx.x);
  const Tile<kState> state_copy{memory + Memory::kStateCopy};
  ChunkDecays& decays = *reinterpret_cast<ChunkDecays*>(memory + Memory::kDecays);
  const float a = plan.a[piece.head];
  const float d = plan.d[piece.head];
  const auto chunk_at = [&](int buffer) { return chunk_in<Memory, kDim, kState>(memory, buffer); };

  if constexpr (kBuffers == 2) load_chunk(piece, 0, chunk_at(0));
  WarpState<kDim, kState> state;
  state.load(piece);
  state.copy_rounded(state_copy);
  int buffer = 0;
  for (int64_t token = 0; token < piece.sequence.n_rows; token += plan.chunk_tokens) {
    const auto chunk = chunk_at(buffer);
    if constexpr (kBuffers == 1) {
      __syncthreads();  // nobody still reads the buffer
      load_chunk(piece, token, chunk);
    }
    wait_for_copies();
    __syncthreads();  // the chunk and the state's copy have arrived, nobody reads the other buffer
    if constexpr (kBuffers == 2) {
      buffer ^= 1;
      const int64_t next = token + plan.chunk_tokens;
      if (next < piece.sequence.n_rows) load_chunk(piece, next, chunk_at(buffer));
    }
    if (threadIdx.x < 32) fill_decays(chunk.dt, a, decays);
    WarpOutputs<kDim, kState> outputs;
    outputs.multiply(chunk, state_copy);
    __syncthreads();  // the decays have arrived, nobody still reads the state's copy
    outputs.mix(chunk, decays, d);
    outputs.store(piece, token, chunk.c);
    state.update(chunk, decays);
    state.copy_rounded(state_copy);
  }
  state.store(piece);
}

template <int kDim, int kState, int kBuffers>
void launch(const ScanPlan& plan, cudaStream_t stream) {
  constexpr int kBytes = Layout<kDim, kState, kBuffers>::kBytes;
  static_assert(2 * (kBytes + 1024) <= 228 * 1024, "two blocks share a processor");
  const auto kernel = scan<kDim, kState, kBuffers>;
  VERNIER_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  kernel<<<static_cast<unsigned>(plan.n_pieces()), kThreads, kBytes, stream>>>(plan);
  check_launch();
}

}  // namespace

int max_slice_bf16(int head_dim, int state_dim, bool is_narrow) {
  if (state_dim > 128 || is_narrow || head_dim <= 32) return 32;
  return head_dim > 64 && head_dim <= 80 ? 80 : 64;
}

void launch_scan_bf16(const ScanPlan& plan, cudaStream_t stream) {
  if (plan.state_dim > 128) return launch<32, 256, 1>(plan, stream);
  if (plan.slice_dim <= 32) return launch<32, 128, 2>(plan, stream);
  if (plan.slice_dim <= 64) return launch<64, 128, 2>(plan, stream);
  launch<80, 128, 2>(plan, stream);
}

}  // namespace vernier::kernels::cuda
