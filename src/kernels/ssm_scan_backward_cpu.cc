// The gradients of the Mamba-2 scan on the host, in the chunked form.
//
// A unit of work is up to eight heads of a group, one after another; units need no synchronization.
// A head walks its chunks twice: forwards, keeping the state S before each, and backwards with the
// gradient G of the state after each. With D_ls = exp(c_l - c_s) for s <= l, Q = g_y X^T,
// E_s = exp(c_L - c_s):
//   g_x = (D * C B^T * dt + d I)^T g_y + E dt B G^T
//   g_B = K^T C + E dt X G,   g_C = K B + exp(c) g_y S,   K = D * Q * dt
//   G  <- exp(c_L) G + sum_l exp(c_l) g_y_l (outer) C_l
// K is summed over the unit's heads first, so that its products are made once. Of a group's units,
// the first writes g_B and g_C in place, others beside it, to be added in order.
//
// With R = D * C B^T * Q, a pair's part of dt A, summed from a token i on, is a sum of all that
// passes through it (each in double):
//   g(dt A)_i = sum_{s < i <= l} dt_s R_ls + sum_{l >= i} u_l + sum_{s < i} dt_s v_s + z,
//   u_l = exp(c_l) g_y_l^T S C_l,   v_s = E_s x_s^T G B_s,   z = exp(c_L) <G, S>
//   g_dt_i = a g(dt A)_i + sum_{l >= i} R_li + v_i,   g_a = sum dt_i g(dt A)_i
// A chunk is 2.4 times the operations of the forward scan's.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/gemm_cpu.h"
#include "kernels/scan_cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

float dot(const float* x, const float* y, int64_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// y += factor x.
void add_scaled(float factor, const float* x, float* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

// Square matrices, one for each chunk of a sequence.
struct ChunkSquares {
  int64_t side = 0;
  std::vector<float> values;

  void resize(int64_t n_chunks, int64_t chunk_tokens) {
    side = chunk_tokens;
    values.assign(n_chunks * side * side, 0.0f);
  }
  MatrixView at(int64_t chunk, int64_t n_tokens) {
    return {values.data() + chunk * side * side, n_tokens, n_tokens, side};
  }
};

// One thread's workspace, kept between calls.
struct Workspace {
  ChunkSquares products;          // C B^T
  ChunkSquares pairs;             // K, summed over heads
  std::vector<double> log_decay;  // c_l of all tokens of a head
  std::vector<float> states;      // before each chunk: [chunks, head_dim, state_dim]
  std::vector<float> g_state;     // [head_dim, state_dim]
  std::vector<float> q;           // [tokens, tokens]
  std::vector<float> mix;         // [tokens, tokens]
  std::vector<float> decays;      // one row of D, then of R
  std::vector<float> scaled;      // [tokens, head_dim]
  std::vector<float> through;     // [tokens, state_dim]: g_y S or X G
};

MatrixView matrix_in(std::vector<float>& values, int64_t rows, int64_t cols) {
  if (std::ssize(values) < rows * cols) values.resize(rows * cols);
  return {values.data(), rows, cols};
}

// What reaches dt and dt A of each token of a chunk.
struct TokenSums {
  std::vector<double> ends;        // sum_{s < l} dt_s R_ls, of l
  std::vector<float> begins;       // sum_{l > s} R_ls, of s
  std::vector<double> own;         // R_ss
  std::vector<double> from_state;  // u
  std::vector<double> to_state;    // v
  double across = 0;               // z
  double skip = 0;                 // sum of Q_ss

  explicit TokenSums(int64_t n_tokens)
      : ends(n_tokens), begins(n_tokens), own(n_tokens), from_state(n_tokens), to_state(n_tokens) {}
};

// A head's part of the gradients of a and d.
struct HeadSums {
  double a = 0;
  double d = 0;
};

// Some heads of one group, through a sequence.
class Unit {
 public:
  Unit(const SsmShape& shape, const HostScanInputs& inputs, ConstMatrixView g_y,
       const HostScanGradients& gradients, int64_t group, MatrixView g_b, MatrixView g_c,
       Workspace& work)
      : shape_(shape),
        inputs_(inputs),
        g_y_(g_y),
        gradients_(gradients),
        b_(inputs.b.col_range(group * shape.state_dim, shape.state_dim)),
        c_(inputs.c.col_range(group * shape.state_dim, shape.state_dim)),
        g_b_(g_b),
        g_c_(g_c),
        work_(work),
        chunk_tokens_(std::min(shape.chunk, kMaxChunk)),
        n_chunks_((inputs.x.rows + chunk_tokens_ - 1) / chunk_tokens_) {}

  void run(int64_t first_head, int64_t n_heads) {
    work_.products.resize(n_chunks_, chunk_tokens_);
    work_.pairs.resize(n_chunks_, chunk_tokens_);
    for (int64_t chunk = 0; chunk < n_chunks_; ++chunk) {
      gemm(plain(rows(c_, chunk)), transposed(rows(b_, chunk)), 0, square(work_.products, chunk));
    }
    for (int64_t t = 0; t < g_b_.rows; ++t) {
      std::ranges::fill(g_b_.row(t), 0.0f);
      std::ranges::fill(g_c_.row(t), 0.0f);
    }
    for (int64_t head = first_head; head < first_head + n_heads; ++head) run_head(head);
    for (int64_t chunk = 0; chunk < n_chunks_; ++chunk) {
      const MatrixView pairs = square(work_.pairs, chunk);
      gemm(transposed(pairs), plain(rows(c_, chunk)), 1, rows(g_b_, chunk));
      gemm(plain(pairs), plain(rows(b_, chunk)), 1, rows(g_c_, chunk));
    }
  }

 private:
  int64_t n_tokens(int64_t chunk) const {
    return std::min(chunk_tokens_, inputs_.x.rows - chunk * chunk_tokens_);
  }
  template <class View>
  View rows(const View& matrix, int64_t chunk) const {
    return matrix.row_range(chunk * chunk_tokens_, n_tokens(chunk));
  }
  MatrixView square(ChunkSquares& squares, int64_t chunk) const {
    return squares.at(chunk, n_tokens(chunk));
  }
  template <class View>
  View channels(const View& matrix, int64_t chunk) const {
    return rows(matrix, chunk).col_range(head_ * shape_.head_dim, shape_.head_dim);
  }
  MatrixView state(int64_t chunk) {
    return {work_.states.data() + chunk * shape_.head_dim * shape_.state_dim, shape_.head_dim,
            shape_.state_dim};
  }
  const double* log_decay(int64_t chunk) const {
    return work_.log_decay.data() + chunk * chunk_tokens_;
  }
  // exp(c_L).
  float whole_decay(int64_t chunk) const {
    return decay_between(log_decay(chunk)[n_tokens(chunk) - 1], 0);
  }
  // E_t.
  float decay_to_end(int64_t chunk, int64_t t) const {
    return decay_between(log_decay(chunk)[n_tokens(chunk) - 1], log_decay(chunk)[t]);
  }
  float dt(int64_t chunk, int64_t t) const {
    return inputs_.dt.row(chunk * chunk_tokens_ + t)[head_];
  }

  void run_head(int64_t head) {
    head_ = head;
    keep_states();
    const MatrixView g_state = matrix_in(work_.g_state, shape_.head_dim, shape_.state_dim);
    std::ranges::fill(work_.g_state, 0.0f);
    HeadSums sums;
    for (int64_t chunk = n_chunks_ - 1; chunk >= 0; --chunk) run_chunk(chunk, g_state, sums);
    if (!gradients_.a.empty()) gradients_.a[head] += static_cast<float>(sums.a);
    if (!gradients_.d.empty()) gradients_.d[head] += static_cast<float>(sums.d);
  }

  // The sums c, and the states before every chunk.
  void keep_states() {
    work_.log_decay.resize(inputs_.x.rows);
    work_.states.resize(n_chunks_ * shape_.head_dim * shape_.state_dim);
    std::fill_n(work_.states.data(), shape_.head_dim * shape_.state_dim, 0.0f);
    for (int64_t chunk = 0; chunk < n_chunks_; ++chunk) {
      double sum = 0;
      for (int64_t t = 0; t < n_tokens(chunk); ++t) {
        work_.log_decay[chunk * chunk_tokens_ + t] = sum += double{dt(chunk, t)} * a();
      }
      if (chunk + 1 < n_chunks_) write_next_state(chunk);
    }
  }

  void write_next_state(int64_t chunk) {
    const MatrixView next = state(chunk + 1);
    std::copy_n(state(chunk).data, next.rows * next.cols, next.data);
    const MatrixView scaled = matrix_in(work_.scaled, n_tokens(chunk), shape_.head_dim);
    const auto factor = [&](int64_t t) { return decay_to_end(chunk, t) * dt(chunk, t); };
    scale_rows(channels(inputs_.x, chunk), factor, scaled);
    gemm(transposed(scaled), plain(rows(b_, chunk)), whole_decay(chunk), next);
  }

  // g_state: of the state after the chunk, then of the one before it.
  void run_chunk(int64_t chunk, MatrixView g_state, HeadSums& head_sums) {
    const ConstMatrixView g_y = channels(g_y_, chunk);
    const bool has_state = chunk > 0;
    const bool has_g_state = chunk + 1 < n_chunks_;
    TokenSums sums(n_tokens(chunk));
    mix(chunk, sums);
    if (has_state) pass_through_state(chunk, sums);
    if (has_g_state) pass_to_state(chunk, g_state, sums);
    write_g_x(chunk, has_g_state, g_state);
    if (has_state && has_g_state) {
      double product = 0;
      for (int64_t p = 0; p < g_state.rows; ++p) {
        product += dot(g_state.row(p).data(), state(chunk).row(p).data(), g_state.cols);
      }
      sums.across = double{whole_decay(chunk)} * product;
    }
    finish_dt(chunk, sums, head_sums);
    if (!has_state) return;
    const MatrixView scaled = matrix_in(work_.scaled, n_tokens(chunk), shape_.head_dim);
    scale_rows(
        g_y, [&](int64_t t) { return decay_between(log_decay(chunk)[t], 0); }, scaled);
    gemm(transposed(scaled), plain(rows(c_, chunk)), whole_decay(chunk), g_state);
  }

  // Everything within the chunk: adds to K, leaves the matrix that g_x multiplies g_y with.
  void mix(int64_t chunk, TokenSums& sums) {
    const int64_t n = n_tokens(chunk);
    const MatrixView q = matrix_in(work_.q, n, n);
    gemm(plain(channels(g_y_, chunk)), transposed(channels(inputs_.x, chunk)), 0, q);
    const MatrixView mix = matrix_in(work_.mix, n, n);
    std::vector<float> dts(n);
    for (int64_t t = 0; t < n; ++t) dts[t] = dt(chunk, t);
    for (int64_t l = 0; l < n; ++l) {
      mix_row(chunk, l, dts.data(), q.row(l).data(), mix.row(l).data(), sums);
      sums.skip += q.row(l)[l];
    }
  }

  void mix_row(int64_t chunk, int64_t l, const float* dts, const float* q, float* mix,
               TokenSums& sums) {
    const double* c = log_decay(chunk);
    const float* cb = square(work_.products, chunk).row(l).data();
    float* pairs = square(work_.pairs, chunk).row(l).data();
    float* decays = matrix_in(work_.decays, 1, l + 1).data;
    for (int64_t s = 0; s <= l; ++s) decays[s] = std::min(0.0f, static_cast<float>(c[l] - c[s]));
    vec::exp_minus(decays, 0.0f, decays, l + 1);
    float* begins = sums.begins.data();
    for (int64_t s = 0; s <= l; ++s) {
      const float weighted = decays[s] * q[s];
      mix[s] = decays[s] * cb[s] * dts[s];
      pairs[s] += weighted * dts[s];
      decays[s] = weighted * cb[s];
    }
    for (int64_t s = 0; s < l; ++s) begins[s] += decays[s];
    sums.ends[l] = dot(decays, dts, l);
    sums.own[l] = decays[l];
    mix[l] += inputs_.d[head_];
    std::fill(mix + l + 1, mix + n_tokens(chunk), 0.0f);
  }

  // g_C += exp(c) g_y S.
  void pass_through_state(int64_t chunk, TokenSums& sums) {
    const int64_t n_state = shape_.state_dim;
    const MatrixView through = matrix_in(work_.through, n_tokens(chunk), n_state);
    gemm(plain(channels(g_y_, chunk)), plain(state(chunk)), 0, through);
    for (int64_t t = 0; t < through.rows; ++t) {
      const float factor = decay_between(log_decay(chunk)[t], 0);
      const float* row = through.row(t).data();
      sums.from_state[t] = double{factor} * dot(row, rows(c_, chunk).row(t).data(), n_state);
      add_scaled(factor, row, rows(g_c_, chunk).row(t).data(), n_state);
    }
  }

  // g_B += E dt X G.
  void pass_to_state(int64_t chunk, ConstMatrixView g_state, TokenSums& sums) {
    const int64_t n_state = shape_.state_dim;
    const MatrixView through = matrix_in(work_.through, n_tokens(chunk), n_state);
    gemm(plain(channels(inputs_.x, chunk)), plain(g_state), 0, through);
    for (int64_t t = 0; t < through.rows; ++t) {
      const float factor = decay_to_end(chunk, t);
      const float* row = through.row(t).data();
      sums.to_state[t] = double{factor} * dot(row, rows(b_, chunk).row(t).data(), n_state);
      add_scaled(factor * dt(chunk, t), row, rows(g_b_, chunk).row(t).data(), n_state);
    }
  }

  void write_g_x(int64_t chunk, bool has_g_state, ConstMatrixView g_state) {
    const MatrixView g_x = channels(gradients_.x, chunk);
    if (has_g_state) {
      gemm(plain(rows(b_, chunk)), transposed(g_state), 0, g_x);
      const auto factor = [&](int64_t t) { return decay_to_end(chunk, t) * dt(chunk, t); };
      scale_rows(g_x, factor, g_x);
    }
    const MatrixView mix = matrix_in(work_.mix, n_tokens(chunk), n_tokens(chunk));
    gemm(transposed(mix), plain(channels(g_y_, chunk)), has_g_state ? 1.0f : 0.0f, g_x);
  }

  void finish_dt(int64_t chunk, const TokenSums& sums, HeadSums& head_sums) {
    double through = sums.across;  // g(dt A) of the token
    for (const double u : sums.from_state) through += u;
    for (int64_t t = 0; t < n_tokens(chunk); ++t) {
      const double own_dt = dt(chunk, t);
      gradients_.dt.row(chunk * chunk_tokens_ + t)[head_] =
          static_cast<float>(a() * through + sums.begins[t] + sums.own[t] + sums.to_state[t]);
      head_sums.a += own_dt * through;
      through += own_dt * (sums.begins[t] + sums.to_state[t]) - sums.ends[t] - sums.from_state[t];
    }
    head_sums.d += sums.skip;
  }

  double a() const { return inputs_.a[head_]; }

  const SsmShape& shape_;
  const HostScanInputs& inputs_;
  ConstMatrixView g_y_;
  const HostScanGradients& gradients_;
  ConstMatrixView b_, c_;  // the group's
  MatrixView g_b_, g_c_;
  Workspace& work_;
  int64_t chunk_tokens_;
  int64_t n_chunks_;
  int64_t head_ = 0;
};

// Adds `from`, [tokens, columns] for each of `n`, to `to`, in order.
void add_parts(const Matrix& from, int64_t n, MatrixView to) {
#pragma omp parallel for schedule(static) if (n * to.rows * to.cols >= kMinParallelElems)
  for (int64_t t = 0; t < to.rows; ++t) {
    for (int64_t part = 0; part < n; ++part) {
      add_scaled(1, from.values().data() + (part * to.rows + t) * to.cols, to.row(t).data(),
                 to.cols);
    }
  }
}

}  // namespace

void ssm_scan_backward(const SsmShape& shape, const HostScanInputs& inputs, ConstMatrixView g_y,
                       const HostScanGradients& gradients) {
  const int64_t n_tokens = inputs.x.rows;
  if (n_tokens == 0) return;
  const int64_t heads_per_group = shape.n_heads / shape.n_groups;
  const int64_t units_per_group = (heads_per_group + kUnitHeads - 1) / kUnitHeads;
  const int64_t n_parts = units_per_group - 1;  // beside those written in place
  Matrix b_parts(n_parts * n_tokens, inputs.b.cols);
  Matrix c_parts(n_parts * n_tokens, inputs.c.cols);
#pragma omp parallel for schedule(dynamic)
  for (int64_t unit = 0; unit < shape.n_groups * units_per_group; ++unit) {
    thread_local Workspace work;
    const int64_t group = unit / units_per_group;
    const int64_t place = unit % units_per_group;
    const auto own = [&](MatrixView in_place, MatrixView parts) {
      const MatrixView all =
          place == 0 ? in_place : parts.row_range((place - 1) * n_tokens, n_tokens);
      return all.col_range(group * shape.state_dim, shape.state_dim);
    };
    Unit(shape, inputs, g_y, gradients, group, own(gradients.b, b_parts), own(gradients.c, c_parts),
         work)
        .run(group * heads_per_group + place * kUnitHeads,
             std::min(kUnitHeads, heads_per_group - place * kUnitHeads));
  }
  if (n_parts == 0) return;
  add_parts(b_parts, n_parts, gradients.b);
  add_parts(c_parts, n_parts, gradients.c);
}

}  // namespace vernier::kernels::cpu
