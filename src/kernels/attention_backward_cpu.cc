// Gradients of causal attention on the host, a tile of scores at a time.
//
// A unit of work is one kv head of one sequence. It takes tiles of rows = (consecutive tokens) x
// (query heads of the kv head), as the forward does, and walks each tile's keys twice, in blocks:
// first for the rows' maxima and sums, then for
//   P = exp(S - max) / sum,   S' = P * (g_y V^T - D),   g_V += P^T g_y,   g_K += S'^T Q,   g_Q +=
//   S' K,
// where Q is scaled. Six products in all, 2 tokens * head_dim operations an element of S each.
// Units share nothing, and tiles and blocks are fixed, so that results do not depend on the number
// of threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/gemm_cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

constexpr int64_t kTileRows = 64;
constexpr int64_t kKeyBlock = 256;

// The matrices of one kv head of one sequence: query heads side by side, [tokens, ...].
struct Unit {
  int64_t heads_per_kv;
  int64_t dim;
  ConstMatrixView q, k, v, y, g_y;
  MatrixView g_q, g_k, g_v;

  int64_t n_tokens() const { return q.rows; }
  // Row r of a tile's (token, head) pairs.
  template <class T>
  T* row(MatrixViewOf<T> matrix, int64_t first_token, int64_t r) const {
    return matrix.row(first_token + r / heads_per_kv).data() + r % heads_per_kv * dim;
  }
};

// A tile's rows, in one thread's workspace, kept between calls.
class Tile {
 public:
  void start(const Unit& unit, int64_t first_token, int64_t n_tokens) {
    unit_ = &unit;
    first_token_ = first_token;
    n_rows_ = n_tokens * unit.heads_per_kv;
    n_keys_ = first_token + n_tokens;
    scale_ = 1.0f / std::sqrt(static_cast<float>(unit.dim));
    query_.resize(n_rows_ * unit.dim);
    g_output_.resize(n_rows_ * unit.dim);
    g_query_.assign(n_rows_ * unit.dim, 0.0f);
    scores_.resize(n_rows_ * kKeyBlock);
    g_scores_.resize(n_rows_ * kKeyBlock);
    max_.assign(n_rows_, -std::numeric_limits<float>::infinity());
    sum_.assign(n_rows_, 0.0f);
    mean_.resize(n_rows_);
    for (int64_t row = 0; row < n_rows_; ++row) gather(row);
  }

  void run() {
    for_each_block([&](int64_t first_key, int64_t n_block) { add_to_sums(first_key, n_block); });
    for_each_block([&](int64_t first_key, int64_t n_block) { add_gradients(first_key, n_block); });
    for (int64_t row = 0; row < n_rows_; ++row) {
      const float* from = g_query_.data() + row * unit_->dim;
      float* to = unit_->row(unit_->g_q, first_token_, row);
      for (int64_t i = 0; i < unit_->dim; ++i) to[i] = from[i] * scale_;
    }
  }

 private:
  void gather(int64_t row) {
    const float* q = unit_->row(unit_->q, first_token_, row);
    const float* g_y = unit_->row(unit_->g_y, first_token_, row);
    const float* y = unit_->row(unit_->y, first_token_, row);
    float* query = query_.data() + row * unit_->dim;
    for (int64_t i = 0; i < unit_->dim; ++i) query[i] = q[i] * scale_;
    std::copy_n(g_y, unit_->dim, g_output_.data() + row * unit_->dim);
    double mean = 0;
    for (int64_t i = 0; i < unit_->dim; ++i) mean += double{g_y[i]} * y[i];
    mean_[row] = static_cast<float>(mean);
  }

  template <class Body>
  void for_each_block(Body body) {
    for (int64_t first_key = 0; first_key < n_keys_; first_key += kKeyBlock) {
      body(first_key, std::min(kKeyBlock, n_keys_ - first_key));
    }
  }

  MatrixView rows(std::vector<float>& values, int64_t cols) const {
    return {values.data(), n_rows_, cols};
  }
  int64_t n_visible(int64_t row, int64_t first_key, int64_t n_block) const {
    const int64_t n_seen = first_token_ + row / unit_->heads_per_kv + 1;
    return std::clamp<int64_t>(n_seen - first_key, 0, n_block);
  }

  MatrixView score(int64_t first_key, int64_t n_block) {
    const MatrixView scores = rows(scores_, n_block);
    gemm(plain(rows(query_, unit_->dim)), transposed(unit_->k.row_range(first_key, n_block)), 0,
         scores);
    return scores;
  }

  void add_to_sums(int64_t first_key, int64_t n_block) {
    const MatrixView scores = score(first_key, n_block);
    for (int64_t row = 0; row < n_rows_; ++row) {
      const int64_t n = n_visible(row, first_key, n_block);
      if (n == 0) continue;
      float* values = scores.row(row).data();
      const float max = std::max(max_[row], vec::max(values, n));
      const float added = vec::exp_minus(values, max, values, n);
      sum_[row] = sum_[row] * std::exp(max_[row] - max) + added;
      max_[row] = max;
    }
  }

  void add_gradients(int64_t first_key, int64_t n_block) {
    const MatrixView weights = score(first_key, n_block);
    const MatrixView g_scores = rows(g_scores_, n_block);
    const MatrixView g_output = rows(g_output_, unit_->dim);
    gemm(plain(g_output), transposed(unit_->v.row_range(first_key, n_block)), 0, g_scores);
    for (int64_t row = 0; row < n_rows_; ++row) {
      const int64_t n = n_visible(row, first_key, n_block);
      float* weight = weights.row(row).data();
      float* g_score = g_scores.row(row).data();
      vec::exp_minus(weight, max_[row], weight, n);
      const float factor = 1.0f / sum_[row];
      for (int64_t i = 0; i < n; ++i) {
        weight[i] *= factor;
        g_score[i] = weight[i] * (g_score[i] - mean_[row]);
      }
      std::fill(weight + n, weight + n_block, 0.0f);
      std::fill(g_score + n, g_score + n_block, 0.0f);
    }
    gemm(transposed(weights), plain(g_output), 1, unit_->g_v.row_range(first_key, n_block));
    gemm(transposed(g_scores), plain(rows(query_, unit_->dim)), 1,
         unit_->g_k.row_range(first_key, n_block));
    gemm(plain(g_scores), plain(unit_->k.row_range(first_key, n_block)), 1,
         rows(g_query_, unit_->dim));
  }

  const Unit* unit_ = nullptr;
  int64_t first_token_ = 0;
  int64_t n_rows_ = 0;
  int64_t n_keys_ = 0;
  float scale_ = 1;
  std::vector<float> query_, g_output_, g_query_, scores_, g_scores_, max_, sum_, mean_;
};

void fill_zero(MatrixView matrix) {
  for (int64_t row = 0; row < matrix.rows; ++row) {
    std::fill(matrix.row(row).begin(), matrix.row(row).end(), 0.0f);
  }
}

void run(const Unit& unit) {
  thread_local Tile tile;
  fill_zero(unit.g_k);
  fill_zero(unit.g_v);
  const int64_t tile_tokens = std::max<int64_t>(1, kTileRows / unit.heads_per_kv);
  for (int64_t first = 0; first < unit.n_tokens(); first += tile_tokens) {
    tile.start(unit, first, std::min(tile_tokens, unit.n_tokens() - first));
    tile.run();
  }
}

Unit unit_of(const AttentionBackward& op, const SequenceSpan& sequence, int64_t kv_head) {
  const int64_t heads_per_kv = op.shape.n_heads / op.shape.n_kv_heads;
  const auto part = [&](auto matrix, int64_t n_heads) {
    const int64_t width = n_heads * op.shape.head_dim;
    return matrix.row_range(sequence.first_row, sequence.n_rows)
        .col_range(kv_head * width, width)
        .host();
  };
  return {.heads_per_kv = heads_per_kv,
          .dim = op.shape.head_dim,
          .q = part(op.q, heads_per_kv),
          .k = part(op.k, 1),
          .v = part(op.v, 1),
          .y = part(op.y, heads_per_kv),
          .g_y = part(op.g_y, heads_per_kv),
          .g_q = part(op.g_q, heads_per_kv),
          .g_k = part(op.g_k, 1),
          .g_v = part(op.g_v, 1)};
}

}  // namespace

void causal_attention_backward(const AttentionBackward& op,
                               std::span<const SequenceSpan> sequences) {
  const int64_t n_units = std::ssize(sequences) * op.shape.n_kv_heads;
#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < n_units; ++index) {
    run(unit_of(op, sequences[index / op.shape.n_kv_heads], index % op.shape.n_kv_heads));
  }
}

}  // namespace vernier::kernels::cpu
