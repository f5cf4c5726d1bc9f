// h <- h + mixer(norm(h)), in pieces of tokens, so that temporaries do not grow with the sequence.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/ranks.h"
#include "model/layers/mixer.h"

namespace vernier::model {

// The most tokens a mixer sees at once, on the host or a device. Its temporaries are then a
// constant whatever the sequence's length: 0.74 GB in a Mamba layer of Nemotron 3 Super on the host
// (18,560 projected, 10,240 convolved and 8,192 scanned values a token, plus the mixer's input and
// output of 4,096 each), 1.5 GB in BF16 on a device. Large enough that decoding a weight is small
// beside multiplying by it, and that a device's experts have hundreds of tokens each.
int64_t piece_tokens(const Device* device);

class ResidualLayer : public Layer {
 public:
  // `name` is the layer's in the checkpoint; `norm_weight` is where the layer runs. `ranks` run it
  // together and must outlive it.
  ResidualLayer(std::string name, Vector<float> norm_weight, float eps,
                std::unique_ptr<const Mixer> mixer, const comm::Ranks& ranks, int64_t piece_tokens);

  std::unique_ptr<LayerState> new_state() const override { return mixer_->new_state(); }
  void forward(AnyMatrixView hidden, std::span<const int64_t> n_tokens,
               std::span<const std::unique_ptr<LayerState>> states, SiteHook* hook) const override;
  void backward(ConstAnyMatrixView hidden, std::span<const int64_t> n_tokens, Gradients g_hidden,
                GradientHook* hook) const override;

 private:
  // Rows that go through the mixer together.
  struct Piece {
    int64_t first_row = 0;
    int64_t n_rows = 0;
    std::vector<SequenceRows> sequences = {};
  };
  std::vector<Piece> pieces_of(std::span<const int64_t> n_tokens,
                               std::span<const std::unique_ptr<LayerState>> states) const;
  void forward_piece(AnyMatrixView hidden, std::span<const SequenceRows> sequences,
                     SiteHook* hook) const;

  std::string name_;
  Vector<float> norm_weight_;
  float eps_;
  std::unique_ptr<const Mixer> mixer_;
  const comm::Ranks& ranks_;
  int64_t piece_tokens_;
};

}  // namespace vernier::model
