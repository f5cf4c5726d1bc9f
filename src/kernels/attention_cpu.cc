// Causal attention on the host, a tile of scores at a time.
//
// A tile has rows = (consecutive tokens) x (query heads of one kv head), so that a token's heads
// share each read of the cache, when prefilling and when decoding. It walks the keys in blocks and
// keeps for each row the running maximum, the running sum and the unnormalized output:
//   m' = max(m, max S);   o' = exp(m - m') o + exp(S - m') V;   sum' = exp(m - m') sum + sum exp(S
//   - m').
// Tiles and key blocks are fixed, so that results do not depend on the number of threads. A masked
// score has weight 0, yet its value takes part in the product: a non-finite value in the cache may
// show in the outputs of up to a tile of earlier tokens.
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

// The running softmax of a tile's rows, in one thread's workspace, kept between calls.
class TileSoftmax {
 public:
  void start(int64_t n_rows, int64_t head_dim) {
    max_.assign(n_rows, -std::numeric_limits<float>::infinity());
    sum_.assign(n_rows, 0.0f);
    query_.resize(n_rows * head_dim);
    scores_.resize(n_rows * kKeyBlock);
    output_.assign(n_rows * head_dim, 0.0f);
    n_rows_ = n_rows;
    head_dim_ = head_dim;
  }

  MatrixView query() { return {query_.data(), n_rows_, head_dim_}; }

  // Adds a block of keys and values, of which row r sees the first n_visible(r).
  template <class Visible>
  void add_block(ConstMatrixView keys, ConstMatrixView values, Visible n_visible) {
    const MatrixView scores(scores_.data(), n_rows_, keys.rows);
    gemm(plain(query()), transposed(keys), 0, scores);
    for (int64_t row = 0; row < n_rows_; ++row) {
      weigh(row, scores.row(row), std::clamp<int64_t>(n_visible(row), 0, keys.rows));
    }
    gemm(plain(scores), plain(values), 1, {output_.data(), n_rows_, head_dim_});
  }

  void finish(int64_t row, float* out) const {
    const float* from = output_.data() + row * head_dim_;
    for (int64_t i = 0; i < head_dim_; ++i) out[i] = from[i] / sum_[row];
  }

 private:
  // Turns a row of scores into weights and moves what the row has accumulated to the new maximum.
  void weigh(int64_t row, std::span<float> scores, int64_t n_visible) {
    std::fill(scores.begin() + n_visible, scores.end(), 0.0f);
    if (n_visible == 0) return;
    const float max = std::max(max_[row], vec::max(scores.data(), n_visible));
    const float shrink = std::exp(max_[row] - max);
    const float added = vec::exp_minus(scores.data(), max, scores.data(), n_visible);
    max_[row] = max;
    sum_[row] = sum_[row] * shrink + added;
    float* out = output_.data() + row * head_dim_;
    for (int64_t i = 0; i < head_dim_; ++i) out[i] *= shrink;
  }

  int64_t n_rows_ = 0;
  int64_t head_dim_ = 0;
  std::vector<float> max_, sum_, query_, scores_, output_;
};

// The tile's place: these tokens, the query heads of this kv head.
struct Tile {
  int64_t first_token;
  int64_t n_tokens;
  int64_t kv_head;
};

struct Attention {
  AttentionShape shape;
  ConstMatrixView q, k, v;
  int64_t first_position;
  MatrixView y;

  int64_t heads_per_kv() const { return shape.n_heads / shape.n_kv_heads; }

  void run(const Tile& tile, TileSoftmax& softmax) const {
    const int64_t dim = shape.head_dim;
    const int64_t n_heads = heads_per_kv();
    const int64_t first_col = tile.kv_head * n_heads * dim;
    softmax.start(tile.n_tokens * n_heads, dim);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (int64_t row = 0; row < tile.n_tokens * n_heads; ++row) {
      const float* from = q.row(tile.first_token + row / n_heads).data() + first_col;
      float* query = softmax.query().row(row).data();
      for (int64_t i = 0; i < dim; ++i) query[i] = from[row % n_heads * dim + i] * scale;
    }
    const int64_t n_keys = first_position + tile.first_token + tile.n_tokens;
    for (int64_t first_key = 0; first_key < n_keys; first_key += kKeyBlock) {
      const int64_t n_block = std::min(kKeyBlock, n_keys - first_key);
      const auto block = [&](ConstMatrixView cache) {
        return cache.row_range(first_key, n_block).col_range(tile.kv_head * dim, dim);
      };
      softmax.add_block(block(k), block(v), [&](int64_t row) {
        return first_position + tile.first_token + row / n_heads + 1 - first_key;
      });
    }
    for (int64_t row = 0; row < tile.n_tokens * n_heads; ++row) {
      float* to = y.row(tile.first_token + row / n_heads).data() + first_col;
      softmax.finish(row, to + row % n_heads * dim);
    }
  }
};

}  // namespace

void causal_attention(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k,
                      ConstMatrixView v, int64_t first_position, MatrixView y) {
  const Attention attention{shape, q, k, v, first_position, y};
  const int64_t tile_tokens = std::max<int64_t>(1, kTileRows / attention.heads_per_kv());
  const int64_t n_token_tiles = (q.rows + tile_tokens - 1) / tile_tokens;
#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < n_token_tiles * shape.n_kv_heads; ++index) {
    // The last tokens see the most keys: they go first, so that no thread is left with a long tile.
    const int64_t first_token = (n_token_tiles - 1 - index / shape.n_kv_heads) * tile_tokens;
    thread_local TileSoftmax softmax;
    attention.run({.first_token = first_token,
                   .n_tokens = std::min(tile_tokens, q.rows - first_token),
                   .kv_head = index % shape.n_kv_heads},
                  softmax);
  }
}

}  // namespace vernier::kernels::cpu
