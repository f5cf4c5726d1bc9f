// What a layer does between its norm and its residual add, and the piece of tokens it does it to.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "model/layer.h"

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

  // y = mixer(u), overwritten; u: an activation of the device's compute type, y: FP32, distinct,
  // both [tokens, hidden_size]. `sequences` covers the rows in order and its states are from
  // new_state(). `hook` may be null.
  virtual void forward(ConstAnyMatrixView u, std::span<const SequenceRows> sequences,
                       SiteHook* hook, AnyMatrixView y) const = 0;
};

// The state of mixers that remember nothing.
class NoState : public LayerState {
 public:
  int64_t size_bytes() const override { return 0; }
};

}  // namespace vernier::model
