// For tests: a whole network in memory, run layer by layer, and the golden files' tensors.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "kernels/linear.h"
#include "model/layers/linear_site.h"
#include "model/model.h"

namespace vernier::model {

inline std::filesystem::path golden_dir() {
  return std::filesystem::path(VERNIER_SOURCE_DIR) / "tests/golden";
}

class GoldenFile {
 public:
  explicit GoldenFile(const std::filesystem::path& path) : file_(path) {}

  TensorView tensor(std::string_view name) const {
    for (const io::TensorEntry& entry : file_.header().entries) {
      if (entry.name == name) return file_.view(entry);
    }
    ADD_FAILURE() << "no golden tensor " << name;
    return {};
  }
  std::vector<int32_t> ids(std::string_view name) const {
    const std::span<const int32_t> values = tensor(name).as<int32_t>();
    return {values.begin(), values.end()};
  }
  // All but the last dimension are rows. Views into the mapped file.
  ConstMatrixView matrix(std::string_view name) const {
    const TensorView view = tensor(name);
    const int64_t cols = view.shape.back();
    return {view.as<float>().data(), view.size() / cols, cols};
  }

 private:
  io::SafetensorsFile file_;
};

// The golden values come from FP32 products in another order of summation through six to fourteen
// layers: an error of 2e-4 of the value, or of the residual stream's unit size where values cancel.
inline void expect_close(ConstAnyMatrixView found, ConstMatrixView expected,
                         const std::string& what) {
  const Matrix copy = to_host(found);
  const ConstMatrixView actual = copy;
  ASSERT_EQ(actual.rows, expected.rows) << what;
  ASSERT_EQ(actual.cols, expected.cols) << what;
  double worst = 0;
  for (int64_t row = 0; row < actual.rows; ++row) {
    for (int64_t col = 0; col < actual.cols; ++col) {
      const double wanted = expected.row(row)[static_cast<size_t>(col)];
      const double error = std::abs(actual.row(row)[static_cast<size_t>(col)] - wanted);
      worst = std::max(worst, error / (1e-3 + 2e-4 * std::abs(wanted)));
      ASSERT_FALSE(std::isnan(error)) << what << " row " << row << " col " << col;
    }
  }
  EXPECT_LT(worst, 1.0) << what << ": the worst error as a multiple of the bound";
}

inline void expect_equal(ConstAnyMatrixView found, ConstAnyMatrixView wanted,
                         const std::string& what) {
  const Matrix found_copy = to_host(found);
  const Matrix wanted_copy = to_host(wanted);
  const ConstMatrixView actual = found_copy;
  const ConstMatrixView expected = wanted_copy;
  ASSERT_EQ(actual.rows, expected.rows) << what;
  ASSERT_EQ(actual.cols, expected.cols) << what;
  for (int64_t row = 0; row < actual.rows; ++row) {
    ASSERT_TRUE(std::ranges::equal(actual.row(row), expected.row(row))) << what << " row " << row;
  }
}

// Every layer loaded, and the states of some sequences.
class Network {
 public:
  Network(const Model& model, const WeightSource& weights, size_t n_sequences)
      : model_(model), weights_(weights) {
    for (size_t layer = 0; layer < model.tree().layers().size(); ++layer) {
      layers_.push_back(model.load_layer(static_cast<int>(layer), weights));
      states_.emplace_back();
      for (size_t i = 0; i < n_sequences; ++i)
        states_.back().push_back(layers_.back()->new_state());
    }
  }

  using OnLayer = std::function<void(int layer, ConstAnyMatrixView hidden)>;

  // Logits of the next tokens of all sequences, which lie in `ids` one after another.
  Matrix forward(std::span<const int32_t> ids, std::span<const int64_t> n_tokens,
                 SiteHook* hook = nullptr, const OnLayer& on_layer = nullptr) {
    Device* device = weights_.device();
    AnyMatrix hidden(std::ssize(ids), model_.hidden_size(), DType::kF32, device);
    kernels::embed(ids, weights_.linear(model_.embedding()).packed, hidden);
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      layers_[layer]->forward(hidden, n_tokens, states_[layer], hook);
      if (on_layer) on_layer(static_cast<int>(layer), hidden);
    }
    AnyMatrix normed = new_activation(hidden.rows(), hidden.cols(), device);
    model_.final_norm(hidden, weights_, {}, normed);
    AnyMatrix logits(hidden.rows(), model_.vocab_size(), DType::kF32, device);
    LinearSite(model_.head(), weights_.linear(model_.head())).forward(normed, hook, logits);
    return to_host(logits);
  }
  // One sequence.
  Matrix forward(std::span<const int32_t> ids, SiteHook* hook = nullptr) {
    const int64_t n_tokens = static_cast<int64_t>(ids.size());
    return forward(ids, {&n_tokens, 1}, hook);
  }

  const LayerState& state(size_t layer, size_t sequence) const { return *states_[layer][sequence]; }

 private:
  const Model& model_;
  const WeightSource& weights_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<std::vector<std::unique_ptr<LayerState>>> states_;  // [layer][sequence]
};

// The golden files hold two sequences of so many tokens.
inline constexpr int64_t kGoldenTokens = 75;

// Both sequences together: every layer's hidden states and the logits. REQUIRES: 2 sequences.
inline void expect_golden_states(Network network, const GoldenFile& golden) {
  const std::vector<int64_t> n_tokens = {kGoldenTokens, kGoldenTokens};
  const Matrix logits = network.forward(
      golden.ids("input_ids"), n_tokens, nullptr, [&](int layer, ConstAnyMatrixView hidden) {
        const std::string name = "hidden." + std::to_string(layer);
        expect_close(hidden, golden.matrix(name), name);
      });
  expect_close(logits, golden.matrix("logits"), "logits");
}

// The first sequence, decoded token by token.
inline void expect_golden_tokens(Network network, const GoldenFile& golden) {
  const std::vector<int32_t> ids = golden.ids("input_ids");
  for (int64_t t = 0; t < kGoldenTokens; ++t) {
    const Matrix logits = network.forward(std::span(ids).subspan(static_cast<size_t>(t), 1));
    expect_close(logits, golden.matrix("logits").row_range(t, 1), "token " + std::to_string(t));
  }
}

// Both sequences, which advance by different numbers of tokens in the same call. REQUIRES: 2
// sequences.
inline void expect_golden_pieces(Network network, const GoldenFile& golden) {
  const std::vector<int32_t> all_ids = golden.ids("input_ids");
  const ConstMatrixView expected = golden.matrix("logits");
  const std::vector<std::vector<int64_t>> calls = {{20, 0}, {1, 33}, {37, 1}, {0, 41}, {17, 0}};
  std::vector<int64_t> done = {0, 0};
  for (const std::vector<int64_t>& n_tokens : calls) {
    std::vector<int32_t> ids;
    for (size_t sequence = 0; sequence < 2; ++sequence) {
      const auto first =
          all_ids.begin() + static_cast<int64_t>(sequence) * kGoldenTokens + done[sequence];
      ids.insert(ids.end(), first, first + n_tokens[sequence]);
    }
    const Matrix logits = network.forward(ids, n_tokens);
    int64_t row = 0;
    for (size_t sequence = 0; sequence < 2; ++sequence) {
      const int64_t first = static_cast<int64_t>(sequence) * kGoldenTokens + done[sequence];
      expect_close(logits.view().row_range(row, n_tokens[sequence]),
                   expected.row_range(first, n_tokens[sequence]), "piece");
      row += n_tokens[sequence];
      done[sequence] += n_tokens[sequence];
    }
  }
}

}  // namespace vernier::model
