#include "model/layers/residual_layer.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/rms_norm_encode.h"

namespace vernier::model {

int64_t piece_tokens(const Device* device) { return device == nullptr ? 4096 : 16384; }

ResidualLayer::ResidualLayer(std::string name, Vector<float> norm_weight, float eps,
                             std::unique_ptr<const Mixer> mixer, const comm::Ranks& ranks,
                             int64_t piece_tokens)
    : name_(std::move(name)),
      norm_weight_(std::move(norm_weight)),
      eps_(eps),
      mixer_(std::move(mixer)),
      ranks_(ranks),
      piece_tokens_(piece_tokens) {}

void ResidualLayer::forward(AnyMatrixView hidden, std::span<const int64_t> n_tokens,
                            std::span<const std::unique_ptr<LayerState>> states,
                            SiteHook* hook) const {
  VERNIER_CHECK(n_tokens.size() == states.size());
  VERNIER_CHECK(std::accumulate(n_tokens.begin(), n_tokens.end(), int64_t{0}) == hidden.rows);
  std::vector<Piece> pieces = pieces_of(n_tokens, states);
  const int64_t n_pieces = mixer_->common_pieces(std::ssize(pieces));
  pieces.resize(static_cast<size_t>(n_pieces), {.first_row = hidden.rows});
  for (const Piece& piece : pieces) {
    forward_piece(hidden.row_range(piece.first_row, piece.n_rows), piece.sequences, hook);
  }
}

// Pieces run across sequences, so that many short ones share each product, and a sequence that does
// not fit continues in the next piece from its state.
std::vector<ResidualLayer::Piece> ResidualLayer::pieces_of(
    std::span<const int64_t> n_tokens, std::span<const std::unique_ptr<LayerState>> states) const {
  std::vector<Piece> pieces;
  int64_t row = 0;
  for (size_t sequence = 0; sequence < n_tokens.size(); ++sequence) {
    for (int64_t left = n_tokens[sequence]; left > 0;) {
      if (pieces.empty() || pieces.back().n_rows == piece_tokens_) pieces.push_back({row});
      Piece& piece = pieces.back();
      const int64_t taken = std::min(left, piece_tokens_ - piece.n_rows);
      piece.sequences.push_back({piece.n_rows, taken, states[sequence].get()});
      piece.n_rows += taken;
      row += taken;
      left -= taken;
    }
  }
  return pieces;
}

void ResidualLayer::forward_piece(AnyMatrixView hidden, std::span<const SequenceRows> sequences,
                                  SiteHook* hook) const {
  if (hidden.rows == 0) return mixer_->forward({hidden}, sequences, hook, hidden);
  // A hook is shown the normed values themselves.
  const auto codes = hook == nullptr ? mixer_->input_codes(hidden.rows) : std::nullopt;
  LinearInputRoom normed(hidden.rows, hidden.cols, hidden.device, codes);
  kernels::rms_norm_encode(hidden, norm_weight_, eps_, normed.rule, normed.values);
  AnyMatrix mixed(hidden.rows, hidden.cols, DType::kF32, hidden.device);
  mixer_->forward(normed.input(), sequences, hook, mixed);
  ranks_.tensor().sum(mixed.view());
  kernels::add(mixed, hidden);
}

}  // namespace vernier::model
