#include "model/layers/attention.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/elementwise.h"

namespace vernier::model {

namespace {

// Rows of one sequence, one a token, in host or device memory. Room grows geometrically, so that
// appending a token is cheap on average; the first rows take exactly their own.
class TokenRows {
 public:
  TokenRows(int64_t width, DType dtype, Device* device)
      : rows_(0, width, dtype, device), n_tokens_(0) {}

  int64_t n_tokens() const { return n_tokens_; }
  int64_t capacity_bytes() const { return rows_.size_bytes(); }
  ConstAnyMatrixView view() const { return rows_.view().row_range(0, n_tokens_); }

  // Room for n more, not initialized.
  AnyMatrixView append(int64_t n) {
    reserve(n_tokens_ + n);
    n_tokens_ += n;
    return rows_.view().row_range(n_tokens_ - n, n);
  }

 private:
  void reserve(int64_t n_rows) {
    if (n_rows <= rows_.rows()) return;
    AnyMatrix larger(std::max(n_rows, 2 * rows_.rows()), rows_.cols(), rows_.dtype(),
                     rows_.device());
    copy_matrix(view(), larger.view().row_range(0, n_tokens_));
    rows_ = std::move(larger);
  }

  AnyMatrix rows_;
  int64_t n_tokens_;
};

struct KvCache : LayerState {
  KvCache(int64_t width, DType dtype, Device* device)
      : k(width, dtype, device), v(width, dtype, device) {}

  int64_t size_bytes() const override { return k.capacity_bytes() + v.capacity_bytes(); }

  TokenRows k, v;
};

// Adds new keys or values to a cache, rounded by the rule. On a device a cache of a rule's format
// holds its codes, which attention multiplies by the scale.
void store(ConstAnyMatrixView rows, const formats::Format* format, float scale, TokenRows& cache) {
  const AnyMatrixView place = cache.append(rows.rows);
  if (format != nullptr && place.device != nullptr) {
    format->device_codec->encode_input(rows, scale, place);
    return;
  }
  copy_matrix(rows, place);
  if (format != nullptr) kernels::round_input(*format, scale, place.host());
}

DType cache_dtype(const formats::Format* format, Device* device) {
  const DType plain = compute_dtype(device);
  if (format == nullptr || device == nullptr) return plain;
  return format->device_codec->input_dtype.value_or(plain);
}

// Whether queries are multiplied as codes of the cache's format.
bool rounds_queries(const formats::Format* format) {
  if (format == nullptr) return false;
  return std::ranges::any_of(format->planes, [](const formats::PlaneSpec& plane) {
    return plane.role == formats::PlaneRole::kCodes && plane.dtype == DType::kF8E4M3;
  });
}

// Overwrites q with attention's output.
void attend(const kernels::AttentionShape& shape, const formats::Format* format,
            std::span<const kernels::AttentionSequence> sequences, AnyMatrixView q) {
  if (!rounds_queries(format)) return kernels::causal_attention(shape, q, sequences, q);
  constexpr float kScale = 1;
  if (q.device == nullptr) {
    kernels::round_input(*format, kScale, q.host());
    return kernels::causal_attention(shape, q, sequences, q);
  }
  AnyMatrix codes(q.rows, q.cols, DType::kF8E4M3, q.device);
  format->device_codec->encode_input(q, kScale, codes);
  kernels::causal_attention(shape, codes, sequences, q);
}

}  // namespace

Attention::Attention(const kernels::AttentionShape& shape, const AttentionSite& site,
                     Weights weights, const comm::Communicator& tensor, Device* device)
    : shape_(shape), site_(&site), weights_(std::move(weights)), tensor_(tensor), device_(device) {
  if (device == nullptr || weights_.kv_rule.format == nullptr) return;
  shape_.k_scale = weights_.kv_rule.k_scale;
  shape_.v_scale = weights_.kv_rule.v_scale;
}

std::unique_ptr<LayerState> Attention::new_state() const {
  return std::make_unique<KvCache>(shape_.n_kv_heads * shape_.head_dim,
                                   cache_dtype(weights_.kv_rule.format, device_), device_);
}

std::optional<kernels::InputCodes> Attention::input_codes(int64_t n_tokens) const {
  const auto codes = weights_.q_proj.input_codes(n_tokens);
  const bool are_shared = codes == weights_.k_proj.input_codes(n_tokens) &&
                          codes == weights_.v_proj.input_codes(n_tokens);
  return are_shared ? codes : std::nullopt;
}

void Attention::forward(const LinearInput& u, std::span<const SequenceRows> sequences,
                        SiteHook* hook, AnyMatrixView y) const {
  AnyMatrix q = new_activation(u.x.rows, weights_.q_proj.n(), device_);
  AnyMatrix k = new_activation(u.x.rows, weights_.k_proj.n(), device_);
  AnyMatrix v = new_activation(u.x.rows, weights_.v_proj.n(), device_);
  weights_.q_proj.forward(u, hook, q);
  weights_.k_proj.forward(u, hook, k);
  weights_.v_proj.forward(u, hook, v);
  if (hook != nullptr) hook->on_kv(*site_, k, v);

  const KvRule& rule = weights_.kv_rule;
  std::vector<kernels::AttentionSequence> attended;
  for (const SequenceRows& rows : sequences) {
    auto& cache = static_cast<KvCache&>(*rows.state);
    const int64_t first_position = cache.k.n_tokens();
    store(k.view().row_range(rows.first_row, rows.n_tokens), rule.format, rule.k_scale, cache.k);
    store(v.view().row_range(rows.first_row, rows.n_tokens), rule.format, rule.v_scale, cache.v);
    attended.push_back(
        {rows.first_row, rows.n_tokens, first_position, cache.k.view(), cache.v.view()});
  }
  attend(shape_, rule.format, attended, q);
  weights_.o_proj.forward(q, hook, y);
}

}  // namespace vernier::model
