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
    model_.final_norm(hidden, weights_, normed);
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

}  // namespace vernier::model
