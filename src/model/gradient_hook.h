// What a backward pass shows to whoever watches it (sensitivity scores), and where it leaves the
// gradients of weights (distillation, tests). The model calls up only through this interface.
#pragma once

#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/grouped_linear.h"
#include "model/module.h"
#include "tensor/any_matrix.h"

namespace vernier::model {

// dLoss/dx of one matrix x, for each of the losses that run backward together.
using Gradients = std::span<const AnyMatrixView>;

// One linear in a backward pass. g_y is only read. Tensor ranks see their shares: of a linear cut
// by rows a range of the outputs, which neighbours may hold in common (holder_of_outputs); of one
// cut by columns a part y of a sum over the ranks, and the gradient of the sum; of one that they
// hold whole their part of the tokens.
struct LinearPass {
  const Module& module;
  ConstAnyMatrixView x;  // [tokens, k], of an expert only its own tokens
  ConstAnyMatrixView y;  // [tokens, n], what the forward pass made of x; empty unless wanted
  Gradients g_y;
  int64_t first_row = 0;  // of the layer's input, that x begins with; not said of an expert
};

// All routed experts of a layer as one map from tokens to what they add to the mixer's output.
// Tensor ranks see their part of the tokens, maybe in several passes. Ranks that share out the
// experts see as many passes, maybe without a token, and must make the same calls of `run`.
struct ExpertsPass {
  // The two projections of every expert here, in order.
  std::vector<const Module*> up, down;
  int64_t first_row = 0;  // of the layer's input, that y begins with
  ConstAnyMatrixView y;   // FP32 [tokens, hidden_size]; empty unless wanted
  Gradients g_y;          // of y
  // The same map with other weights for the experts, in order, for some of the tokens, counted from
  // first_row (null: all); routing and latent projections stay. y, FP32, is overwritten.
  std::function<void(std::span<const kernels::GroupWeight> up,
                     std::span<const kernels::GroupWeight> down,
                     const VectorView<const int32_t>* tokens, AnyMatrixView y)>
      run;
};

// Every method is called from the thread that runs the pass. Matrices are where the layer runs; on
// a device they are valid for work queued there before the method returns.
class GradientHook {
 public:
  virtual ~GradientHook() = default;

  virtual void on_linear(const LinearPass& /*pass*/) {}
  // Called beside on_linear of the single experts, where outputs are wanted.
  virtual void on_experts(const ExpertsPass& /*pass*/) {}
  // Whether passes should hold y, which not every layer needs for its gradient.
  virtual bool wants_outputs() const { return false; }
  // Where to add the gradient of a tensor that is no linear's weight, by its checkpoint name: FP32,
  // all elements in order, where the layer runs; of the first loss. Empty: not wanted.
  virtual VectorView<float> gradient_of(std::string_view /*tensor*/) { return {}; }
};

}  // namespace vernier::model
