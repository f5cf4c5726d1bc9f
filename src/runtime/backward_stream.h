// The streaming loop in reverse: gradients enter after the last layer and leave before the first,
// one layer's weights at a time. What a layer needs of its forward pass is computed again from its
// stored input. Several losses run backward together. Ranks share the work as they do forward.
#pragma once

#include <functional>
#include <span>

#include "runtime/layer_stream.h"

namespace vernier::runtime {

// Watches a backward pass layer by layer, last layer first.
class BackwardVisitor {
 public:
  virtual ~BackwardVisitor() = default;
  // The layer's weights are there; -1: the head's. What it returns sees the layer's passes; null:
  // nobody, and the calls below are left out. The same on all ranks of a stage.
  virtual model::GradientHook* on_layer_begin(int layer) = 0;
  // Rows [first_row, first_row + n_rows) of all tokens go through the layer: what is shown until
  // on_batch_done is of these.
  virtual void on_batch_begin(int64_t first_row, int64_t n_rows) = 0;
  virtual void on_batch_done() = 0;
  virtual void on_layer_done(int layer) = 0;
};

// Makes the gradient of a loss at some logits: rows [first_row, ...) of all tokens. FP32 [tokens,
// vocab_size], where the layers run, whole on every tensor rank; g_logits is overwritten.
using LossGradient =
    std::function<void(int64_t first_row, ConstAnyMatrixView logits, AnyMatrixView g_logits)>;

struct BackwardOptions {
  int64_t batch_windows = 32;
  BackwardVisitor* visitor = nullptr;
  ProgressSink* progress = nullptr;
  PhaseTimes* phases = nullptr;
  std::string label = "backward";
};

// The gradients of hidden states lie one loss beside the other: [tokens, losses * hidden_size],
// FP32.

// `gradients` begin as zeros. From the final hidden states through head and final norm, in pieces
// of tokens; on the last stage, nothing elsewhere.
void backward_from_logits(const model::Model& model, const model::WeightSource& weights,
                          const HiddenStore& hidden, std::span<const LossGradient> losses,
                          const HiddenStore& gradients, const BackwardOptions& options);

// From the last layer's output to the first layer's input, in place, in batches of windows.
// `inputs` are those of the same windows. Of several pipeline stages each runs its own layers, on
// what the stage after it hands over.
void stream_layers_backward(const model::Model& model, const model::WeightSource& weights,
                            const Windows& windows, const LayerInputs& inputs,
                            const HiddenStore& gradients, const BackwardOptions& options);

}  // namespace vernier::runtime
