#include "model/layers/residual_layer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

namespace vernier::model {
namespace {

struct CountingState : LayerState {
  int64_t size_bytes() const override { return sizeof(n_seen); }
  int64_t n_seen = 0;
};

// Writes to each row how many tokens of its sequence came before, plus the row's normed first
// value.
class PositionMixer : public Mixer {
 public:
  explicit PositionMixer(std::vector<int64_t>* piece_rows) : piece_rows_(piece_rows) {}

  std::unique_ptr<LayerState> new_state() const override {
    return std::make_unique<CountingState>();
  }
  void forward(const LinearInput& input, std::span<const SequenceRows> sequences, SiteHook*,
               AnyMatrixView output) const override {
    const ConstMatrixView u = input.x.host();
    const MatrixView y = output.host();
    piece_rows_->push_back(u.rows);
    int64_t next_row = 0;
    for (const SequenceRows& rows : sequences) {
      EXPECT_EQ(rows.first_row, next_row);
      next_row += rows.n_tokens;
      auto& state = static_cast<CountingState&>(*rows.state);
      for (int64_t t = 0; t < rows.n_tokens; ++t) {
        y.row(rows.first_row + t)[0] = static_cast<float>(state.n_seen++);
        y.row(rows.first_row + t)[1] = u.row(rows.first_row + t)[1];
      }
    }
    EXPECT_EQ(next_row, u.rows);
  }

  void backward(ConstAnyMatrixView, std::span<const kernels::SequenceSpan>, Gradients,
                GradientHook*, Gradients) const override {
    ADD_FAILURE() << "no test runs it backward";
  }

 private:
  std::vector<int64_t>* piece_rows_;
};

ResidualLayer position_layer(const std::vector<float>& norm_weight, float eps,
                             std::vector<int64_t>* piece_rows, int64_t piece_tokens = 4096) {
  static const comm::Ranks alone;
  return ResidualLayer("layer", Vector<float>(std::span<const float>(norm_weight), nullptr), eps,
                       std::make_unique<PositionMixer>(piece_rows), alone, piece_tokens);
}

TEST(ResidualLayer, CutsTokensIntoPiecesThatCarryState) {
  std::vector<int64_t> piece_rows;
  const ResidualLayer layer = position_layer({1, 1}, 1e-5f, &piece_rows, 4);
  const std::vector<int64_t> n_tokens = {3, 0, 6, 2};
  std::vector<std::unique_ptr<LayerState>> states;
  for (size_t i = 0; i < n_tokens.size(); ++i) states.push_back(layer.new_state());

  Matrix hidden(11, 2);
  for (int64_t row = 0; row < 11; ++row) hidden.view().row(row)[0] = 100;
  layer.forward(hidden, n_tokens, states, nullptr);

  EXPECT_EQ(piece_rows, (std::vector<int64_t>{4, 4, 3}));
  const std::vector<float> expected = {100, 101, 102, 100, 101, 102, 103, 104, 105, 100, 101};
  for (int64_t row = 0; row < 11; ++row) {
    EXPECT_EQ(hidden.view().row(row)[0], expected[static_cast<size_t>(row)]);
  }

  // The next call goes on where this one stopped.
  Matrix more(1, 2);
  layer.forward(more, std::vector<int64_t>{0, 0, 1, 0}, states, nullptr);
  EXPECT_EQ(more.view().row(0)[0], 6);
}

TEST(ResidualLayer, AddsTheMixerOfTheNormedInput) {
  std::vector<int64_t> piece_rows;
  const ResidualLayer layer = position_layer({1, 2}, 0.0f, &piece_rows);
  std::vector<std::unique_ptr<LayerState>> states;
  states.push_back(layer.new_state());
  Matrix hidden(1, 2);
  hidden.values()[0] = 3;
  hidden.values()[1] = 4;
  layer.forward(hidden, std::vector<int64_t>{1}, states, nullptr);
  // The root mean square of (3, 4) is sqrt(12.5); the weight doubles the second value.
  EXPECT_FLOAT_EQ(hidden.values()[1], 4 + 2 * 4 / std::sqrt(12.5f));
}

TEST(ResidualLayer, AcceptsNoTokens) {
  std::vector<int64_t> piece_rows;
  const ResidualLayer layer = position_layer({1, 1}, 1e-5f, &piece_rows);
  Matrix nothing(0, 2);
  layer.forward(nothing, {}, {}, nullptr);
  EXPECT_TRUE(piece_rows.empty());
}

}  // namespace
}  // namespace vernier::model
