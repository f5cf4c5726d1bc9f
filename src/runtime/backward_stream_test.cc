// The gradient of every weight against the golden files, which PyTorch's autograd made.
#include "runtime/backward_stream.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "kernels/embed_backward.h"
#include "kernels/linear_backward.h"
#include "kernels/loss.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "runtime/device_weights.h"

namespace vernier::runtime {
namespace {

// Adds up the gradient of every tensor, of the first loss.
class GradientCollector : public model::GradientHook, public BackwardVisitor {
 public:
  GradientCollector(const model::ModuleTree& tree, Device* device) : tree_(tree), device_(device) {}

  void on_linear(const model::LinearPass& pass) override {
    const std::string& name = pass.module.tensors.front().name;
    kernels::linear_weight_gradient(pass.g_y[0], pass.x, gradient(name, pass.module.k));
  }
  VectorView<float> gradient_of(std::string_view tensor) override {
    const AnyMatrixView all = gradient(std::string(tensor), 1);
    return {all.as<float>(), all.rows * all.cols, all.device};
  }

  model::GradientHook* on_layer_begin(int) override { return this; }
  void on_batch_begin(int64_t, int64_t) override {}
  void on_batch_done() override {}
  void on_layer_done(int) override {}

  const std::map<std::string, AnyMatrix>& gradients() const { return gradients_; }

 private:
  AnyMatrixView gradient(const std::string& name, int64_t cols) {
    const auto [at, is_new] = gradients_.try_emplace(name);
    if (is_new) at->second = new_zeros(n_elements(name) / cols, cols, device_);
    return at->second;
  }
  int64_t n_elements(const std::string& name) const {
    for (const model::TensorSpec& spec : tree_.owner_of(name)->tensors) {
      if (spec.name == name) return n_elems(spec.shape);
    }
    ADD_FAILURE() << "no tensor " << name;
    return 0;
  }

  const model::ModuleTree& tree_;
  Device* device_;
  std::map<std::string, AnyMatrix> gradients_;
};

// |found - expected| / |expected|, both as vectors.
double relative_error(ConstMatrixView found, const TensorView& expected) {
  double error = 0;
  double norm = 0;
  const std::span<const float> values = expected.as<float>();
  for (int64_t row = 0; row < found.rows; ++row) {
    for (int64_t col = 0; col < found.cols; ++col) {
      const double wanted = values[static_cast<size_t>(row * found.cols + col)];
      error += std::pow(found.row(row)[static_cast<size_t>(col)] - wanted, 2);
      norm += wanted * wanted;
    }
  }
  return std::sqrt(error / norm);
}

class GoldenGradients : public ::testing::TestWithParam<std::string> {
 protected:
  // Streams forward and back, `n_losses` copies of the golden loss together.
  void run(const model::WeightSource& weights, int64_t batch_windows, size_t n_losses) {
    const model::Model& model = *stored_.model;
    Device* device = weights.device();
    const HiddenPlacement placement =
        device == nullptr ? HiddenPlacement::kMemory : HiddenPlacement::kDevice;
    const Windows windows = {{ids_.begin(), ids_.begin() + model::kGoldenTokens},
                             {ids_.begin() + model::kGoldenTokens, ids_.end()}};
    const auto n_rows = static_cast<int64_t>(ids_.size());
    LayerInputs inputs;
    for (size_t layer = 0; layer < model.tree().layers().size(); ++layer) {
      inputs.emplace_back(n_rows, model.hidden_size(), placement, ".", device);
    }
    const HiddenStore hidden =
        stream_layers(model, weights, windows,
                      {.batch_windows = batch_windows, .placement = placement, .inputs = &inputs});
    gradients_.emplace(n_rows, static_cast<int64_t>(n_losses) * model.hidden_size(), placement, ".",
                       device);
    collector_.emplace(model.tree(), device);
    const std::vector<LossGradient> losses(n_losses, golden_loss());
    const BackwardOptions options{.batch_windows = batch_windows, .visitor = &*collector_};
    backward_from_logits(model, weights, hidden, losses, *gradients_, options);
    stream_layers_backward(model, weights, windows, inputs, *gradients_, options);
  }

  // Mean cross-entropy of position t predicting t + 1.
  LossGradient golden_loss() const {
    std::vector<int32_t> targets;
    for (size_t row = 0; row < ids_.size(); ++row) {
      const bool is_last = (row + 1) % model::kGoldenTokens == 0;
      targets.push_back(is_last ? kernels::kNoTarget : ids_[row + 1]);
    }
    const float scale = 1.0f / static_cast<float>(2 * (model::kGoldenTokens - 1));
    return [targets, scale](int64_t first, ConstAnyMatrixView logits, AnyMatrixView g_logits) {
      const auto part =
          std::span(targets).subspan(static_cast<size_t>(first), static_cast<size_t>(logits.rows));
      kernels::cross_entropy_gradient(logits, part, scale, g_logits);
    };
  }

  // FP32 through six layers and back, in another order of sums than PyTorch's.
  void expect_golden() {
    constexpr double kBound = 1e-4;
    size_t n_compared = 0;
    for (const model::Module& module : stored_.model->tree().modules()) {
      for (const model::TensorSpec& spec : module.tensors) {
        if (spec.name.ends_with("e_score_correction_bias")) continue;  // has no gradient
        if (module.kind == model::ModuleKind::kEmbedding) continue;    // below
        const auto found = collector_->gradients().find(spec.name);
        ASSERT_NE(found, collector_->gradients().end()) << spec.name;
        EXPECT_LT(relative_error(to_host(found->second), golden_.tensor("grad." + spec.name)),
                  kBound)
            << spec.name;
        ++n_compared;
      }
    }
    EXPECT_GT(n_compared, 60u);

    const model::Module& embedding = stored_.model->embedding();
    Matrix g_table(embedding.n, embedding.k);
    const Matrix g_hidden = to_host(gradients_->view().col_range(0, embedding.k));
    kernels::embed_backward(ids_, g_hidden, g_table);
    EXPECT_LT(relative_error(g_table, golden_.tensor("grad." + embedding.tensors.front().name)),
              kBound);
  }

  const model::StoredModel stored_ =
      model::open_checkpoint(model::golden_dir() / GetParam() / "checkpoint");
  const model::GoldenFile golden_{model::golden_dir() / GetParam() / "golden.safetensors"};
  const std::vector<int32_t> ids_ = golden_.ids("input_ids");
  std::optional<HiddenStore> gradients_;
  std::optional<GradientCollector> collector_;
};

TEST_P(GoldenGradients, OnTheHost) {
  run(*stored_.weights, 2, 1);
  expect_golden();
}

TEST_P(GoldenGradients, OneWindowAtATime) {
  run(*stored_.weights, 1, 1);
  expect_golden();
}

TEST_P(GoldenGradients, TwoLossesTogether) {
  run(*stored_.weights, 2, 2);
  expect_golden();
  const int64_t width = stored_.model->hidden_size();
  model::expect_equal(gradients_->view().col_range(0, width),
                      gradients_->view().col_range(width, width), "the second loss");
}

TEST_P(GoldenGradients, OnADevice) {
  if (n_devices() == 0) GTEST_SKIP() << "no CUDA device";
  const std::unique_ptr<Device> device = open_device({.compute_dtype = DType::kF32});
  const DeviceWeights weights(stored_.weights, *device);
  run(weights, 2, 1);
  expect_golden();
  collector_.reset();
  gradients_.reset();
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenGradients, ::testing::Values("latent", "grouped"));

}  // namespace
}  // namespace vernier::runtime
