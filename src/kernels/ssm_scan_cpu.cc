// The Mamba-2 scan on the host.
//
// Chunked: a unit of work is up to eight heads of a group, which share the products C B^T, through
// all chunks in order; units need no synchronization. A head's chunk is
//   y_l = sum_{s<=l} M_ls x_s + exp(c_l) S C_l,   M_ls = exp(c_l - c_s) (C_l . B_s) dt_s + [l=s] D
//   S  <- exp(c_L) S + sum_s exp(c_L - c_s) dt_s x_s (outer) B_s
// as three matrix products. c is summed in double: with c near -1000, where differences near 0
// still matter, FP32 would lose four digits of exp(c_l - c_s).
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/gemm_cpu.h"
#include "kernels/scan_cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

// A chunk's inputs of one head.
struct HeadChunk {
  ConstMatrixView x;   // [tokens, head_dim]
  ConstMatrixView b;   // [tokens, state_dim]
  ConstMatrixView c;   // [tokens, state_dim]
  ConstMatrixView dt;  // [tokens, 1]
  ConstMatrixView cb;  // [tokens, tokens], C B^T
  float a;
  float d;

  int64_t n_tokens() const { return x.rows; }
};

// One thread's workspace, kept between calls.
struct Workspace {
  std::vector<double> log_decay;  // c_l
  std::vector<float> products;    // C B^T
  std::vector<float> mix;         // M
  std::vector<float> scaled;      // C or B, rows scaled
};

// Row l of M; zeros beyond the diagonal.
void fill_mix_row(const HeadChunk& chunk, const double* log_decay, int64_t l, float* row) {
  for (int64_t s = 0; s <= l; ++s) {
    row[s] = std::min(0.0f, static_cast<float>(log_decay[l] - log_decay[s]));
  }
  vec::exp_minus(row, 0.0f, row, l + 1);
  const float* cb = chunk.cb.row(l).data();
  for (int64_t s = 0; s <= l; ++s) row[s] *= cb[s] * chunk.dt.data[s * chunk.dt.row_stride];
  row[l] += chunk.d;
  std::fill(row + l + 1, row + chunk.n_tokens(), 0.0f);
}

void scan_chunk(const HeadChunk& chunk, Workspace& work, MatrixView state, MatrixView y) {
  const int64_t n_tokens = chunk.n_tokens();
  work.log_decay.resize(n_tokens);
  work.mix.resize(n_tokens * n_tokens);
  work.scaled.resize(n_tokens * state.cols);
  double sum = 0;
  for (int64_t t = 0; t < n_tokens; ++t) {
    work.log_decay[t] = sum += double{chunk.dt.row(t)[0]} * chunk.a;
  }
  const double total = sum;

  const MatrixView mix(work.mix.data(), n_tokens, n_tokens);
  for (int64_t l = 0; l < n_tokens; ++l) {
    fill_mix_row(chunk, work.log_decay.data(), l, mix.row(l).data());
  }
  gemm(plain(mix), plain(chunk.x), 0, y);

  const MatrixView scaled(work.scaled.data(), n_tokens, state.cols);
  scale_rows(
      chunk.c, [&](int64_t t) { return decay_between(work.log_decay[t], 0); }, scaled);
  gemm(plain(scaled), transposed(state), 1, y);

  const auto remaining = [&](int64_t t) {
    return decay_between(total, work.log_decay[t]) * chunk.dt.row(t)[0];
  };
  scale_rows(chunk.b, remaining, scaled);
  gemm(transposed(chunk.x), plain(scaled), decay_between(total, 0), state);
}

// Some heads of one group, through all chunks.
void scan_heads(const SsmShape& shape, const HostScanInputs& inputs, int64_t group,
                int64_t first_head, int64_t n_heads, MatrixView state, MatrixView y) {
  thread_local Workspace work;
  const int64_t chunk_tokens = std::min(shape.chunk, kMaxChunk);
  for (int64_t first = 0; first < inputs.x.rows; first += chunk_tokens) {
    const int64_t n_tokens = std::min(chunk_tokens, inputs.x.rows - first);
    const auto part = [&](ConstMatrixView matrix, int64_t first_col, int64_t n_cols) {
      return matrix.row_range(first, n_tokens).col_range(first_col, n_cols);
    };
    const auto b = part(inputs.b, group * shape.state_dim, shape.state_dim);
    const auto c = part(inputs.c, group * shape.state_dim, shape.state_dim);
    work.products.resize(n_tokens * n_tokens);
    const MatrixView cb(work.products.data(), n_tokens, n_tokens);
    gemm(plain(c), transposed(b), 0, cb);
    for (int64_t head = first_head; head < first_head + n_heads; ++head) {
      const int64_t row = head * shape.head_dim;
      const HeadChunk chunk{.x = part(inputs.x, row, shape.head_dim),
                            .b = b,
                            .c = c,
                            .dt = part(inputs.dt, head, 1),
                            .cb = cb,
                            .a = inputs.a[head],
                            .d = inputs.d[head]};
      scan_chunk(chunk, work, state.row_range(row, shape.head_dim),
                 y.row_range(first, n_tokens).col_range(row, shape.head_dim));
    }
  }
}

}  // namespace

void ssm_scan_chunked(const SsmShape& shape, const HostScanInputs& inputs, MatrixView state,
                      MatrixView y) {
  const int64_t heads_per_group = shape.n_heads / shape.n_groups;
  const int64_t units_per_group = (heads_per_group + kUnitHeads - 1) / kUnitHeads;
#pragma omp parallel for schedule(dynamic)
  for (int64_t unit = 0; unit < shape.n_groups * units_per_group; ++unit) {
    const int64_t group = unit / units_per_group;
    const int64_t first = unit % units_per_group * kUnitHeads;
    scan_heads(shape, inputs, group, group * heads_per_group + first,
               std::min(kUnitHeads, heads_per_group - first), state, y);
  }
}

void ssm_scan_recurrent(const SsmShape& shape, const HostScanInputs& inputs, MatrixView state,
                        MatrixView y) {
  const int64_t heads_per_group = shape.n_heads / shape.n_groups;
  const int64_t n_tokens = inputs.x.rows;
#pragma omp parallel for schedule(static) if (n_tokens * state.rows * state.cols >= \
                                              kMinParallelElems)
  for (int64_t head = 0; head < shape.n_heads; ++head) {
    const int64_t first_row = head * shape.head_dim;
    const int64_t first_state = head / heads_per_group * shape.state_dim;
    for (int64_t t = 0; t < n_tokens; ++t) {
      const float dt = inputs.dt.row(t)[head];
      const vec::SsmStep step{
          .head_dim = shape.head_dim,
          .state_dim = shape.state_dim,
          .decay = std::exp(std::min(0.0f, dt * inputs.a[head])),
          .dt = dt,
          .skip = inputs.d[head],
          .x = inputs.x.row(t).data() + first_row,
          .b = inputs.b.row(t).data() + first_state,
          .c = inputs.c.row(t).data() + first_state,
      };
      vec::ssm_step(step, state.row(first_row).data(), state.row_stride,
                    y.row(t).data() + first_row);
    }
  }
}

}  // namespace vernier::kernels::cpu
