#include "model/layers/residual_layer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/rms_norm_encode.h"

namespace vernier::model {

int64_t piece_tokens(const Device* device) { return device == nullptr ? 4096 : 16384; }

ResidualLayer::ResidualLayer(std::string name, Vector<float> norm_weight, float eps,
                             std::unique_ptr<const Mixer> mixer, int64_t piece_tokens)
    : name_(std::move(name)),
      norm_weight_(std::move(norm_weight)),
      eps_(eps),
      mixer_(std::move(mixer)),
      piece_tokens_(piece_tokens) {}

// Pieces run across sequences, so that many short ones share each product, and a sequence that does
// not fit continues in the next piece from its state.
void ResidualLayer::forward(AnyMatrixView hidden, std::span<const int64_t> n_tokens,
                            std::span<const std::unique_ptr<LayerState>> states,
                            SiteHook* hook) const {
  VERNIER_CHECK(n_tokens.size() == states.size());
  VERNIER_CHECK(std::accumulate(n_tokens.begin(), n_tokens.end(), int64_t{0}) == hidden.rows);
  std::vector<SequenceRows> piece;
  int64_t piece_start = 0;
  int64_t piece_rows = 0;
  const auto flush = [&] {
    if (piece_rows == 0) return;
    forward_piece(hidden.row_range(piece_start, piece_rows), piece, hook);
    piece_start += piece_rows;
    piece_rows = 0;
    piece.clear();
  };
  for (size_t sequence = 0; sequence < n_tokens.size(); ++sequence) {
    for (int64_t left = n_tokens[sequence]; left > 0;) {
      const int64_t taken = std::min(left, piece_tokens_ - piece_rows);
      piece.push_back({piece_rows, taken, states[sequence].get()});
      piece_rows += taken;
      left -= taken;
      if (piece_rows == piece_tokens_) flush();
    }
  }
  flush();
}

void ResidualLayer::forward_piece(AnyMatrixView hidden, std::span<const SequenceRows> sequences,
                                  SiteHook* hook) const {
  // A hook is shown the normed values themselves.
  const auto codes = hook == nullptr ? mixer_->input_codes(hidden.rows) : std::nullopt;
  LinearInputRoom normed(hidden.rows, hidden.cols, hidden.device, codes);
  kernels::rms_norm_encode(hidden, norm_weight_, eps_, normed.rule, normed.values);
  AnyMatrix mixed(hidden.rows, hidden.cols, DType::kF32, hidden.device);
  mixer_->forward(normed.input(), sequences, hook, mixed);
  kernels::add(mixed, hidden);
}

}  // namespace vernier::model
