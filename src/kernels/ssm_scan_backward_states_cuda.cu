// The backward scan on a device, first kernel: states before chunks, and gradients of states after
// them.
//
// Elements of a state do not meet one another, so a block takes a tile of 32 x 64 of one head's
// state, in registers, through one sequence: forwards over x and B, or backwards over g_y and C,
//   S <- exp(c_L) S + X^T (exp(c_L - c_s) dt_s B),   G <- exp(c_L) G + g_Y^T (exp(c_l) C),
// writing it between any two chunks. The next chunk is copied meanwhile into the second of two
// buffers. In BF16 x and g_y are rounded once more, with their factor.
//
// A chunk of a tile is 0.26 MFLOP, 12 KiB of reads (BF16) that the second-level cache serves to the
// tiles of a head and the heads of a group, and 8 KiB of writes. 16384 tokens of Super (128 heads
// of 64 x 128, 256 chunks): 69 GFLOP and 2.1 GB written, 0.8 ms.
#include "kernels/shared_memory_cuda.h"
#include "kernels/ssm_scan_backward_plan_cuda.h"
#include "kernels/ssm_scan_backward_tile_cuda.h"
#include "kernels/ssm_scan_plan_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kTileRows = 32;
constexpr int kTileCols = 64;
constexpr int kColWarps = 2;
constexpr int kThreads = 32 * kColWarps * kTileRows / 16;
using State = WarpSums<kTileCols, kColWarps>;

// A chunk's inputs: of x and B, or of g_y and C.
template <class T>
struct Buffer {
  Tile<T, kTileRows> left;
  Tile<T, kTileCols> right;
  float* dt;

  static constexpr int kBytes = Tile<T, kTileRows>::bytes(kChunkTokens) +
                                Tile<T, kTileCols>::bytes(kChunkTokens) + kChunkTokens * 4;
  __device__ explicit Buffer(std::byte* memory) {
    left.data = reinterpret_cast<T*>(memory);
    memory += Tile<T, kTileRows>::bytes(kChunkTokens);
    right.data = reinterpret_cast<T*>(memory);
    dt = reinterpret_cast<float*>(memory + Tile<T, kTileCols>::bytes(kChunkTokens));
  }
};

template <class T>
constexpr int kBytes = 2 * Buffer<T>::kBytes + static_cast<int>(sizeof(ChunkDecays));

// A tile of one head's state in one sequence.
template <class T>
struct Walk {
  const ScanBackwardPlan& plan;
  BackwardSequence sequence;
  bool is_forward;
  int head;  // of the pass
  int row;   // the tile's first
  int col;

  __device__ explicit Walk(const ScanBackwardPlan& plan) : plan(plan), is_forward(blockIdx.y == 0) {
    const int n_row_tiles = (plan.head_dim + kTileRows - 1) / kTileRows;
    const int n_col_tiles = (plan.state_stride + kTileCols - 1) / kTileCols;
    int index = static_cast<int>(blockIdx.x);
    col = index % n_col_tiles * kTileCols;
    index /= n_col_tiles;
    row = index % n_row_tiles * kTileRows;
    index /= n_row_tiles;
    head = index % plan.n_heads;
    sequence = plan.sequences[index / plan.n_heads];
  }

  __device__ int n_steps() const { return sequence.n_chunks - 1; }
  __device__ int chunk_of(int step) const {
    return is_forward ? step : sequence.n_chunks - 1 - step;
  }
  // Where the state is kept that the step arrives at.
  __device__ int64_t place_of(int step) const {
    return sequence.first_place + (is_forward ? step : sequence.n_chunks - 2 - step);
  }

  __device__ void load(int step, const Buffer<T>& to) const {
    const int token = chunk_of(step) * plan.chunk_tokens;
    const int n_tokens = min(plan.chunk_tokens, sequence.n_rows - token);
    const int64_t first_row = int64_t{sequence.first_row} + token;
    const int whole_head = plan.first_head + head;
    const int64_t channel = int64_t{whole_head} * plan.head_dim + row;
    const int64_t n = int64_t{whole_head / plan.heads_per_group} * plan.state_dim + col;
    load_tile<kChunkTokens, kThreads>(
        to.left,
        is_forward ? static_cast<const T*>(plan.x) + first_row * plan.x_stride + channel
                   : static_cast<const T*>(plan.g_y) + first_row * plan.g_y_stride + channel,
        is_forward ? plan.x_stride : plan.g_y_stride, n_tokens, plan.head_dim - row,
        is_forward ? plan.is_x_aligned : plan.is_g_y_aligned);
    load_tile<kChunkTokens, kThreads>(
        to.right,
        is_forward ? static_cast<const T*>(plan.b) + first_row * plan.b_stride + n
                   : static_cast<const T*>(plan.c) + first_row * plan.c_stride + n,
        is_forward ? plan.b_stride : plan.c_stride, n_tokens, plan.state_dim - col,
        is_forward ? plan.is_b_aligned : plan.is_c_aligned);
    if (threadIdx.x < kChunkTokens) {
      const int t = static_cast<int>(threadIdx.x);
      to.dt[t] = t < n_tokens ? plan.dt[(first_row + t) * plan.dt_stride + whole_head] : 0.0f;
    }
  }

  __device__ void keep(const State& state, int step) const {
    float* const to =
        (is_forward ? plan.states : plan.g_states) + plan.state_at(place_of(step), head, row);
    State::for_each_pair([&](int block, int j, int half, int r, int n) {
      if (row + r >= plan.head_dim || col + n >= plan.state_stride) return;
      const float* pair = state.values[block][j] + 2 * half;
      store_pair(to + int64_t{r} * plan.state_stride + col + n, pair[0], pair[1]);
    });
  }
};

template <class T>
__device__ void scale_rows(Tile<T, kTileRows> tile, const float* factors) {
  for (int index = threadIdx.x; index < kChunkTokens * kTileRows / 2; index += kThreads) {
    const int t = index / (kTileRows / 2);
    T* const pair = tile.at(t, index % (kTileRows / 2) * 2);
    const float2 values = load_pair(pair);
    store_pair(pair, values.x * factors[t], values.y * factors[t]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    keep_states(const __grid_constant__ ScanBackwardPlan plan) {
  std::byte* const memory = dynamic_shared();
  ChunkDecays& decays = *reinterpret_cast<ChunkDecays*>(memory + 2 * Buffer<T>::kBytes);
  const auto buffer_of = [&](int step) { return Buffer<T>(memory + step % 2 * Buffer<T>::kBytes); };
  const Walk<T> walk(plan);
  const float a = plan.a[plan.first_head + walk.head];
  State state;
  state.clear();
  walk.load(0, buffer_of(0));
  for (int step = 0; step < walk.n_steps(); ++step) {
    const Buffer<T> buffer = buffer_of(step);
    wait_for_copies();
    __syncthreads();  // the chunk has arrived, nobody reads the other buffer or the decays
    if (step + 1 < walk.n_steps()) walk.load(step + 1, buffer_of(step + 1));
    if (threadIdx.x < 32) fill_decays(buffer.dt, a, decays);
    __syncthreads();
    scale_rows(buffer.left, walk.is_forward ? decays.to_end : decays.from_start);
    const float decay = decays.from_start[kChunkTokens - 1];
    State::for_each_pair([&](int block, int j, int half, int, int) {
      state.values[block][j][2 * half] *= decay;
      state.values[block][j][2 * half + 1] *= decay;
    });
    __syncthreads();
    state.template add_product<true, false>(buffer.left, buffer.right, 0, kChunkTokens);
    walk.keep(state, step);
  }
}

template <class T>
void launch(const ScanBackwardPlan& plan, cudaStream_t stream) {
  const int n_tiles = (plan.head_dim + kTileRows - 1) / kTileRows *
                      ((plan.state_stride + kTileCols - 1) / kTileCols);
  const dim3 grid(static_cast<unsigned>(plan.n_sequences * plan.n_heads * n_tiles), 2);
  VERNIER_CUDA(
      cudaFuncSetAttribute(keep_states<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes<T>));
  keep_states<T><<<grid, kThreads, kBytes<T>, stream>>>(plan);
  check_launch();
}

}  // namespace

void launch_keep_states_bf16(const ScanBackwardPlan& plan, cudaStream_t stream) {
  launch<__nv_bfloat16>(plan, stream);
}
void launch_keep_states_f32(const ScanBackwardPlan& plan, cudaStream_t stream) {
  launch<float>(plan, stream);
}

}  // namespace vernier::kernels::cuda
