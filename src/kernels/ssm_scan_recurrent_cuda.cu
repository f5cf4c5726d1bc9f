// The Mamba-2 recurrence on a device, bound by memory: a state is read and written once, whatever
// the number of tokens.
//
// A warp takes 8 rows of a head's state: eight lanes a row, four rows side by side, two of such
// sets. A lane holds 4 columns of every 32 in registers, so that eight lanes read 128 bytes of a
// row, and every read of the state is issued before the first is used. y needs three exchanges
// between eight lanes for each row.
//
// A token of one sequence moves 4.2 MB in Nano (64 heads of 64 x 128), 1.4 us at 3 TB/s, and 8.4 MB
// in Super, 2.8 us; B, C and x are a hundredth of it. 16384 tokens as 64 sequences of 256: 0.09 ms
// of states, and one step of about 0.5 us for each of the 256 tokens.
//
// Error: FP32 throughout; a sum of state_dim / 8 terms in order and three more between lanes.
#include "kernels/packs_cuda.h"
#include "kernels/ssm_scan_plan_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowLanes = 8;  // lanes of one row
constexpr int kRowsAtOnce = 32 / kRowLanes;
constexpr int kRowSets = kRecurrentRows / kRowsAtOnce;
constexpr int kPack = 4;
constexpr int kPieceCols = kRowLanes * kPack;

// The lane's columns of a row of kPieces * 32: of piece k, 32 k + 4 (lane % 8) and the next three.
template <int kPieces>
struct Columns {
  float values[kPieces][kPack];

  __device__ static int col_of(int piece) {
    return piece * kPieceCols + static_cast<int>(threadIdx.x) % kRowLanes * kPack;
  }

  // Those below n_cols, zeros beyond.
  template <class T>
  __device__ void load(const T* row, int n_cols, bool is_aligned) {
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      const int col = col_of(k);
      Pack<T, kPack> pack = {};
      if (is_aligned) {
        if (col < n_cols) pack = Pack<T, kPack>::load(row + col);
      } else {
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          if (col + i < n_cols) pack.elems[i] = row[col + i];
        }
      }
#pragma unroll
      for (int i = 0; i < kPack; ++i) values[k][i] = static_cast<float>(pack.elems[i]);
    }
  }
  __device__ void store(float* row, int n_cols, bool is_aligned) const {
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
      const int col = col_of(k);
      if (is_aligned) {
        if (col < n_cols)
          *reinterpret_cast<float4*>(row + col) =
              make_float4(values[k][0], values[k][1], values[k][2], values[k][3]);
      } else {
#pragma unroll
        for (int i = 0; i < kPack; ++i) {
          if (col + i < n_cols) row[col + i] = values[k][i];
        }
      }
    }
  }

  // The lane's part of S C after S = decay S + drive B.
  __device__ float step(float decay, float drive, const Columns& b, const Columns& c) {
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kPieces; ++k) {
#pragma unroll
      for (int i = 0; i < kPack; ++i) {
        float& value = values[k][i];
        value = fmaf(decay, value, drive * b.values[k][i]);
        sum = fmaf(value, c.values[k][i], sum);
      }
    }
    return sum;
  }
};

__device__ float sum_over_row(float sum) {
#pragma unroll
  for (int distance = kRowLanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(~0u, sum, distance);
  }
  return sum;
}

template <class T, int kPieces>
__global__ void __launch_bounds__(kThreads) recur(const __grid_constant__ ScanPlan plan) {
  const int index = static_cast<int>(blockIdx.x) * kWarps + static_cast<int>(threadIdx.x) / 32;
  if (index >= plan.n_pieces()) return;  // the whole warp
  const ScanPiece<T> piece(plan, index);
  const int lane = threadIdx.x % 32;
  const float a = plan.a[piece.head];
  const float d = plan.d[piece.head];
  const auto row_of = [&](int set) { return set * kRowsAtOnce + lane / kRowLanes; };
  const auto state_row = [&](int set) {
    return piece.state() + row_of(set) * piece.sequence.state_stride;
  };

  Columns<kPieces> state[kRowSets];
#pragma unroll
  for (int set = 0; set < kRowSets; ++set) {
    const bool is_inside = row_of(set) < piece.n_channels;
    state[set].load(is_inside ? state_row(set) : piece.state(), is_inside ? plan.state_dim : 0,
                    plan.is_state_aligned);
  }
  for (int64_t token = 0; token < piece.sequence.n_rows; ++token) {
    Columns<kPieces> b, c;
    b.load(piece.b(token), plan.state_dim, plan.is_bc_aligned);
    c.load(piece.c(token), plan.state_dim, plan.is_bc_aligned);
    const float dt = *piece.dt(token);
    const float decay = expf(fminf(0.0f, dt * a));
#pragma unroll
    for (int set = 0; set < kRowSets; ++set) {
      const int row = row_of(set);
      const bool is_inside = row < piece.n_channels;
      const float x = is_inside ? static_cast<float>(piece.x(token)[row]) : 0.0f;
      const float sum = sum_over_row(state[set].step(decay, dt * x, b, c));
      if (is_inside && lane % kRowLanes == 0) {
        piece.y(token)[row] = static_cast<T>(fmaf(d, x, sum));
      }
    }
  }
#pragma unroll
  for (int set = 0; set < kRowSets; ++set) {
    if (row_of(set) < piece.n_channels) {
      state[set].store(state_row(set), plan.state_dim, plan.is_state_aligned);
    }
  }
}

template <class T>
void launch(const ScanPlan& plan, cudaStream_t stream) {
  static_assert(kMaxStateDim == 8 * kPieceCols);
  const auto kernel = plan.state_dim <= kPieceCols       ? recur<T, 1>
                      : plan.state_dim <= 4 * kPieceCols ? recur<T, 4>
                                                         : recur<T, 8>;
  const int n_blocks = (plan.n_pieces() + kWarps - 1) / kWarps;
  kernel<<<static_cast<unsigned>(n_blocks), kThreads, 0, stream>>>(plan);
  check_launch();
}

}  // namespace

void launch_recurrence_bf16(const ScanPlan& plan, cudaStream_t stream) {
  launch<__nv_bfloat16>(plan, stream);
}
void launch_recurrence_f32(const ScanPlan& plan, cudaStream_t stream) {
  launch<float>(plan, stream);
}

}  // namespace vernier::kernels::cuda
