#include "eval/evaluate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/testing.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "text/dataset.h"

namespace vernier::eval {
namespace {

const std::filesystem::path kTiny = std::filesystem::path(VERNIER_SOURCE_DIR) / "models/tiny";

// The weights of another source, its linears packed to FP8 and back: a model that differs a little.
class Perturbed : public model::WeightSource {
 public:
  explicit Perturbed(const model::WeightSource& source) : source_(source) {}

  model::LinearWeight linear(const model::Module& module) const override {
    model::LinearWeight weight = source_.linear(module);
    if (module.kind != model::ModuleKind::kLinear) return weight;
    const auto packed = std::make_shared<formats::PackedTensor>(
        formats::find_format("fp8_e4m3")
            ->encode(weight.packed.plane(formats::PlaneRole::kCodes), {}));
    weight.packed = packed->view();
    weight.owner = packed;
    return weight;
  }
  TensorView tensor(const model::TensorSpec& spec) const override { return source_.tensor(spec); }
  model::KvRule kv_rule(const model::AttentionSite& site) const override {
    return source_.kv_rule(site);
  }

 private:
  const model::WeightSource& source_;
};

class LatentScores : public ::testing::Test {
 protected:
  LatentScores() {
    const std::vector<int32_t> ids =
        model::GoldenFile(model::golden_dir() / "latent/golden.safetensors").ids("input_ids");
    size_t first = 0;
    for (const size_t length : {75u, 40u, 1u, 34u}) {
      windows_.emplace_back(ids.begin() + first, ids.begin() + first + length);
      first += length;
    }
  }

  Matrix logits_of(const model::WeightSource& weights, const std::vector<int32_t>& window) const {
    return model::Network(*stored_.model, weights, 1).forward(window);
  }

  const model::StoredModel stored_ =
      model::open_checkpoint(model::golden_dir() / "latent/checkpoint");
  const Perturbed perturbed_{*stored_.weights};
  const std::vector<Candidate> candidates_ = {{"base", *stored_.model, *stored_.weights},
                                              {"fp8", *stored_.model, perturbed_}};
  runtime::Windows windows_;
};

TEST_F(LatentScores, AModelIsNoDistanceFromItself) {
  const std::vector<Score> scores = evaluate({candidates_[0], candidates_[0]}, windows_, {});
  ASSERT_EQ(scores.size(), 2u);
  EXPECT_EQ(scores[0].perplexity, scores[1].perplexity);
  for (const Score& score : scores) {
    EXPECT_EQ(score.label, "base");
    EXPECT_EQ(score.nll_change.mean, 0);
    EXPECT_EQ(score.kl.mean, 0);
    EXPECT_EQ(score.kl.standard_error, 0);
    EXPECT_EQ(score.top1_agreement.mean, 1);
    EXPECT_EQ(score.top1_agreement.standard_error, 0);
  }
}

// One window's sums, by the formulas and in double.
struct Reference {
  double base_nll = 0, nll = 0, kl = 0, n_agreeing = 0;
};

Reference reference_of(const std::vector<int32_t>& window, ConstMatrixView base,
                       ConstMatrixView logits) {
  const auto log_softmax = [](std::span<const float> row) {
    double sum = 0;
    for (float logit : row) sum += std::exp(static_cast<double>(logit));
    std::vector<double> logs(row.begin(), row.end());
    for (double& value : logs) value -= std::log(sum);
    return logs;
  };
  Reference sums;
  for (size_t t = 0; t < window.size(); ++t) {
    const std::vector<double> p = log_softmax(base.row(static_cast<int64_t>(t)));
    const std::vector<double> q = log_softmax(logits.row(static_cast<int64_t>(t)));
    if (t + 1 < window.size()) {
      sums.base_nll -= p[static_cast<size_t>(window[t + 1])];
      sums.nll -= q[static_cast<size_t>(window[t + 1])];
    }
    for (size_t id = 0; id < p.size(); ++id) sums.kl += std::exp(p[id]) * (p[id] - q[id]);
    sums.n_agreeing +=
        std::ranges::max_element(p) - p.begin() == std::ranges::max_element(q) - q.begin();
  }
  return sums;
}

// Kernels sum FP32 exponentials, and batches sum products in another order: the logits of size 1
// move by some 1e-6, a log-probability with them.
TEST_F(LatentScores, EqualTheFormulasInDouble) {
  const std::vector<Score> scores = evaluate(candidates_, windows_, {});
  std::vector<WindowSum> base_nll, nll, change, kl, agreement;
  for (const std::vector<int32_t>& window : windows_) {
    const Reference sums =
        reference_of(window, logits_of(*stored_.weights, window), logits_of(perturbed_, window));
    const auto n_positions = static_cast<double>(window.size());
    base_nll.push_back({sums.base_nll, n_positions - 1});
    nll.push_back({sums.nll, n_positions - 1});
    change.push_back({sums.nll - sums.base_nll, n_positions - 1});
    kl.push_back({sums.kl, n_positions});
    agreement.push_back({sums.n_agreeing, n_positions});
  }
  constexpr double kTolerance = 1e-5;
  EXPECT_NEAR(scores[0].mean_nll, estimate_mean(base_nll).mean, kTolerance);
  EXPECT_EQ(scores[0].perplexity, std::exp(scores[0].mean_nll));
  const Score& score = scores[1];
  EXPECT_NEAR(score.mean_nll, estimate_mean(nll).mean, kTolerance);
  EXPECT_EQ(score.perplexity, std::exp(score.mean_nll));
  EXPECT_NEAR(score.nll_change.mean, estimate_mean(change).mean, kTolerance);
  EXPECT_NEAR(score.nll_change.standard_error, estimate_mean(change).standard_error, kTolerance);
  EXPECT_NEAR(score.kl.mean, estimate_mean(kl).mean, kTolerance);
  EXPECT_NEAR(score.kl.standard_error, estimate_mean(kl).standard_error, kTolerance);
  EXPECT_GT(score.kl.mean, 100 * kTolerance) << "the models must differ for this to mean anything";
  EXPECT_EQ(score.top1_agreement.mean, estimate_mean(agreement).mean);
  EXPECT_NEAR(score.top1_agreement.standard_error, estimate_mean(agreement).standard_error, 1e-12);
  EXPECT_LT(score.top1_agreement.mean, 1);
}

TEST_F(LatentScores, ShowsEveryPositionOfEveryModelOnceAndInOrder) {
  std::vector<int64_t> next = {0, 0};
  std::vector<size_t> order;
  EvaluateOptions options;
  options.on_logits = [&](size_t candidate, int64_t first, ConstAnyMatrixView logits) {
    EXPECT_EQ(first, next.at(candidate));
    EXPECT_EQ(logits.cols, 384);
    next.at(candidate) += logits.rows;
    order.push_back(candidate);
  };
  evaluate(candidates_, windows_, options);
  EXPECT_EQ(next, (std::vector<int64_t>{150, 150}));
  EXPECT_TRUE(std::ranges::is_sorted(order));
}

// A window beyond one piece of 512 positions is scored as one.
TEST_F(LatentScores, LongWindowsAreMeasuredInPieces) {
  std::vector<int32_t> window;
  for (int repeat = 0; repeat < 8; ++repeat) {
    window.insert(window.end(), windows_[0].begin(), windows_[0].end());
  }
  const Score score = evaluate(candidates_, {window}, {})[1];
  const Reference sums =
      reference_of(window, logits_of(*stored_.weights, window), logits_of(perturbed_, window));
  EXPECT_NEAR(score.mean_nll, sums.nll / 599, 1e-5);
  EXPECT_NEAR(score.kl.mean, sums.kl / 600, 1e-5);
  EXPECT_EQ(score.kl.standard_error, 0);
}

TEST_F(LatentScores, RefusesAnotherVocabulary) {
  const model::StoredModel tiny = model::open_checkpoint(kTiny);
  const Error error = error_of([&] {
    evaluate({candidates_[0], {"tiny", *tiny.model, *tiny.weights}}, windows_, {});
  });
  EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
  EXPECT_EQ(error.message(), "tiny: has a vocabulary of 4096, expected 384 as in base");
}

TEST_F(LatentScores, ProgressNamesTheModel) {
  struct Labels : ProgressSink {
    void update(const ProgressState& state) override { labels.push_back(state.label); }
    void note(const std::string&) override {}
    std::vector<std::string> labels;
  } progress;
  EvaluateOptions options;
  options.progress = &progress;
  evaluate(candidates_, windows_, options);
  EXPECT_EQ(progress.labels.front(), "evaluating base, layer 1 of 6");
  EXPECT_EQ(progress.labels.back(), "evaluating fp8, layer 6 of 6");
}

// Another implementation's value: its FP32 sums are in another order.
TEST(TinyNll, OfABook) {
  const model::StoredModel tiny = model::open_checkpoint(kTiny);
  const model::GoldenFile golden(model::golden_dir() / "tiny.safetensors");
  const std::span<const float> expected = golden.tensor("nll").as<float>();
  double mean = 0;
  for (float nll : expected) mean += nll / static_cast<double>(expected.size());
  const std::vector<Score> scores =
      evaluate({{"tiny", *tiny.model, *tiny.weights}}, {golden.ids("input_ids")}, {});
  EXPECT_NEAR(scores[0].mean_nll, mean, 1e-3);
}

// The published perplexity, from tokens to score. Both sides work in FP32; a mean over 32704
// positions averages what is left of their differences.
TEST(TinyPerplexity, Of64WindowsOf512Tokens) {
  const model::StoredModel tiny = model::open_checkpoint(kTiny);
  const text::Tokenizer tokenizer(kTiny / "tokenizer.json");
  const runtime::Windows windows = text::make_windows(
      tokenizer, text::read_documents(kTiny / "data/evaluation.txt"),
      {.n_windows = 64, .window_tokens = 512, .separator = {}, .shuffle_seed = {}});
  ASSERT_EQ(windows.size(), 64u);
  const io::Json golden = io::read_json(model::golden_dir() / "tiny.json");
  const double expected = golden.at("perplexity");
  const std::vector<Score> scores = evaluate({{"tiny", *tiny.model, *tiny.weights}}, windows, {});
  EXPECT_NEAR(scores[0].perplexity, expected, 1e-4 * expected);
}

}  // namespace
}  // namespace vernier::eval
