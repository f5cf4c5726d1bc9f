// One layer of a network and what it remembers of a sequence.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "model/gradient_hook.h"
#include "model/site_hook.h"
#include "tensor/any_matrix.h"

namespace vernier::model {

// What one layer remembers of one sequence between calls: KV cache, convolution history, SSM state.
class LayerState {
 public:
  virtual ~LayerState() = default;
  virtual int64_t size_bytes() const = 0;
};

// One loaded layer, on the device of its weights: h <- h + mixer(norm(h)).
class Layer {
 public:
  virtual ~Layer() = default;

  // The state of an empty sequence.
  virtual std::unique_ptr<LayerState> new_state() const = 0;

  // Runs the next tokens of several sequences. `hidden` FP32 [sum of n_tokens, hidden_size] holds
  // the sequences one after another and is updated in place; states[i] belongs to sequence i, which
  // has n_tokens[i] tokens here. Prefill and decoding are the same call. `hook` may be null.
  virtual void forward(AnyMatrixView hidden, std::span<const int64_t> n_tokens,
                       std::span<const std::unique_ptr<LayerState>> states,
                       SiteHook* hook) const = 0;

  // Backward through whole sequences, which start from empty states: sequence i has n_tokens[i]
  // rows of `hidden`, the layer's input as forward() was given it. `g_hidden`, FP32, holds for each
  // loss the gradient of the layer's output and then that of its input. What the gradients need of
  // the forward pass is computed again. All rows run at once, so that the caller's batches bound
  // the temporaries. Ranks that share out experts make as many calls, without rows where they have
  // none. `hook` may be null. REQUIRES: an unquantized cache.
  virtual void backward(ConstAnyMatrixView hidden, std::span<const int64_t> n_tokens,
                        Gradients g_hidden, GradientHook* hook) const = 0;
};

}  // namespace vernier::model
