#include "model/layers/attention.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace vernier::model {

namespace {

// Rows of one sequence, one a token. A vector grows geometrically, so that appending a token is
// cheap on average; the first rows take exactly their own room.
class TokenRows {
 public:
  explicit TokenRows(int64_t width) : width_(width) {}

  int64_t n_tokens() const { return static_cast<int64_t>(values_.size()) / width_; }
  size_t capacity_bytes() const { return values_.capacity() * sizeof(float); }
  ConstMatrixView view() const { return {values_.data(), n_tokens(), width_}; }

  void append(ConstMatrixView rows) {
    const int64_t first = n_tokens();
    values_.resize(values_.size() + static_cast<size_t>(rows.rows * width_));
    for (int64_t row = 0; row < rows.rows; ++row) {
      std::ranges::copy(rows.row(row), values_.begin() + (first + row) * width_);
    }
  }

 private:
  int64_t width_;
  std::vector<float> values_;
};

struct KvCache : LayerState {
  explicit KvCache(int64_t width) : k(width), v(width) {}

  int64_t size_bytes() const override {
    return static_cast<int64_t>(k.capacity_bytes() + v.capacity_bytes());
  }

  TokenRows k, v;
};

}  // namespace

Attention::Attention(const kernels::AttentionShape& shape, const AttentionSite& site,
                     Weights weights)
    : shape_(shape), site_(&site), weights_(std::move(weights)) {}

std::unique_ptr<LayerState> Attention::new_state() const {
  return std::make_unique<KvCache>(shape_.n_kv_heads * shape_.head_dim);
}

void Attention::forward(ConstMatrixView u, std::span<const SequenceRows> sequences, SiteHook* hook,
                        MatrixView y) const {
  Matrix q(u.rows, weights_.q_proj.n());
  Matrix k(u.rows, weights_.k_proj.n());
  Matrix v(u.rows, weights_.v_proj.n());
  weights_.q_proj.forward(u, hook, q);
  weights_.k_proj.forward(u, hook, k);
  weights_.v_proj.forward(u, hook, v);
  if (hook != nullptr) hook->on_kv(*site_, k, v);
  if (const KvRule& rule = weights_.kv_rule; rule.format != nullptr) {
    round_rows(*rule.format, rule.k_scale, k);
    round_rows(*rule.format, rule.v_scale, v);
  }
  for (const SequenceRows& rows : sequences) {
    auto& cache = static_cast<KvCache&>(*rows.state);
    const int64_t first_position = cache.k.n_tokens();
    cache.k.append(k.view().row_range(rows.first_row, rows.n_tokens));
    cache.v.append(v.view().row_range(rows.first_row, rows.n_tokens));
    const MatrixView mine = q.view().row_range(rows.first_row, rows.n_tokens);
    kernels::causal_attention(shape_, mine, cache.k.view(), cache.v.view(), first_position, mine);
  }
  weights_.o_proj.forward(q, hook, y);
}

}  // namespace vernier::model
