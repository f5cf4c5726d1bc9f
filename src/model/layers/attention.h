// Causal grouped-query attention without biases or any position code, over a growing KV cache.
#pragma once

#include "comm/communicator.h"
#include "kernels/attention.h"
#include "model/layers/linear_site.h"
#include "model/layers/mixer.h"
#include "model/weight_source.h"

namespace vernier::model {

class Attention : public Mixer {
 public:
  struct Weights {
    LinearSite q_proj, k_proj, v_proj, o_proj;
    // New keys and values are rounded by it before they enter the cache. With FP8 queries are too,
    // with scale 1, as servers with such a cache do by default, so that both meet as codes.
    KvRule kv_rule;
  };

  // Runs on `device`, its heads shared out to the tensor ranks. `site` and `tensor` must outlive
  // the mixer.
  Attention(const kernels::AttentionShape& shape, const AttentionSite& site, Weights weights,
            const comm::Communicator& tensor, Device* device);

  std::unique_ptr<LayerState> new_state() const override;
  std::optional<kernels::InputCodes> input_codes(int64_t n_tokens) const override;
  void forward(const LinearInput& u, std::span<const SequenceRows> sequences, SiteHook* hook,
               AnyMatrixView y) const override;
  void backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> sequences,
                Gradients g_y, GradientHook* hook, Gradients g_u) const override;

 private:
  // From g_y, the gradient of new keys or values, adds to g_u and shows the projection.
  void backward_kv(const LinearSite& projection, ConstAnyMatrixView u, ConstAnyMatrixView y,
                   Gradients g_y, GradientHook* hook, Gradients g_u) const;

  kernels::AttentionShape shape_;
  const AttentionSite* site_;
  Weights weights_;
  const comm::Communicator& tensor_;
  Device* device_;
};

}  // namespace vernier::model
