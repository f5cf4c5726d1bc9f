// What a layer does between its norm and its residual add, and the piece of tokens it does it to.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "kernels/sequence_span.h"
#include "model/layer.h"
#include "model/layers/linear_site.h"

namespace vernier::model {

// The rows of a piece that belong to one sequence, and that sequence's state.
struct SequenceRows {
  int64_t first_row = 0;
  int64_t n_tokens = 0;
  LayerState* state = nullptr;
};

class Mixer {
 public:
  virtual ~Mixer() = default;

  virtual std::unique_ptr<LayerState> new_state() const = 0;

  // The codes that all of u is rounded to by everything that reads it, if there are n_tokens
  // tokens; absent where readers differ or want u itself.
  virtual std::optional<kernels::InputCodes> input_codes(int64_t /*n_tokens*/) const {
    return std::nullopt;
  }

  // How many pieces this rank must run where it has n_pieces of its own: ranks that exchange tokens
  // inside a mixer run as many, the last of them empty where tokens are fewer.
  virtual int64_t common_pieces(int64_t n_pieces) const { return n_pieces; }

  // y = mixer(u), overwritten; u: an activation of the device's compute type or, where there is no
  // hook, what input_codes() names; y: FP32, distinct, both [tokens, hidden_size]. Where several
  // tensor ranks hold the mixer, y is this rank's part of a sum over them. `sequences` covers the
  // rows in order and its states are from new_state(). `hook` may be null.
  virtual void forward(const LinearInput& u, std::span<const SequenceRows> sequences,
                       SiteHook* hook, AnyMatrixView y) const = 0;

  // From g_y, FP32, the gradients g_u of u, FP32, overwritten: of several tensor ranks, this rank's
  // part of a sum over them. `sequences` covers the rows with whole sequences in order. `hook` may
  // be null.
  virtual void backward(ConstAnyMatrixView u, std::span<const kernels::SequenceSpan> sequences,
                        Gradients g_y, GradientHook* hook, Gradients g_u) const = 0;
};

// The state of mixers that remember nothing.
class NoState : public LayerState {
 public:
  int64_t size_bytes() const override { return 0; }
};

}  // namespace vernier::model
