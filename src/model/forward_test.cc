// The whole forward pass against the golden vectors of another implementation, and against itself:
// prefill and decoding, packed and decoded weights, with and without a hook.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/log_softmax.h"
#include "model/repacked_weights.h"
#include "model/stored_model.h"
#include "model/test_network.h"

namespace vernier::model {
namespace {

StoredModel open_golden(const std::string& name) {
  return open_checkpoint(golden_dir() / name / "checkpoint");
}

class GoldenForward : public ::testing::TestWithParam<std::string> {
 protected:
  const StoredModel stored_ = open_golden(GetParam());
  const GoldenFile golden_{golden_dir() / GetParam() / "golden.safetensors"};
  const std::vector<int32_t> ids_ = golden_.ids("input_ids");

  Network network(size_t n_sequences) const {
    return Network(*stored_.model, *stored_.weights, n_sequences);
  }
};

TEST_P(GoldenForward, TwoSequencesTogether) { expect_golden_states(network(2), golden_); }

TEST_P(GoldenForward, TokenByToken) { expect_golden_tokens(network(1), golden_); }

TEST_P(GoldenForward, InUnevenPieces) { expect_golden_pieces(network(2), golden_); }

// Longer than the pieces a layer works in: their borders show no more than borders of calls
// elsewhere.
TEST_P(GoldenForward, LongSequence) {
  std::vector<int32_t> ids;
  while (ids.size() < 4200) ids.push_back(ids_[ids.size() * 7 % ids_.size()]);
  const Matrix whole = network(1).forward(ids);
  Network network = this->network(1);
  int64_t first = 0;
  for (int64_t n_tokens : {90, 4000, 110}) {
    const auto part =
        std::span(ids).subspan(static_cast<size_t>(first), static_cast<size_t>(n_tokens));
    expect_close(network.forward(part), whole.view().row_range(first, n_tokens), "part");
    first += n_tokens;
  }
}

TEST_P(GoldenForward, GreedyContinuation) {
  const std::vector<int32_t> expected = golden_.ids("greedy_ids");
  constexpr size_t kPrompt = 20;
  Network network = this->network(1);
  std::vector<int32_t> ids(expected.begin(), expected.begin() + kPrompt);
  Matrix logits = network.forward(ids);
  while (ids.size() < expected.size()) {
    ids.push_back(static_cast<int32_t>(kernels::argmax(logits.view().row(logits.rows() - 1))));
    logits = network.forward(std::span(ids).last(1));
  }
  EXPECT_EQ(ids, expected);
}

TEST_P(GoldenForward, StatesTakeTheBytesThatThePlanCounts) {
  Network network = this->network(1);
  network.forward(std::span(ids_).first(75));
  for (size_t layer = 0; layer < stored_.model->tree().layers().size(); ++layer) {
    EXPECT_EQ(network.state(layer, 0).size_bytes(),
              stored_.model->state_bytes(static_cast<int>(layer), 75, nullptr));
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenForward, ::testing::Values("latent", "grouped"),
                         [](const auto& info) { return info.param; });

TEST(TinyModel, LogitsOfABook) {
  const StoredModel stored =
      open_checkpoint(std::filesystem::path(VERNIER_SOURCE_DIR) / "models/tiny");
  const GoldenFile golden(golden_dir() / "tiny.safetensors");
  const Matrix logits = Network(*stored.model, *stored.weights, 1).forward(golden.ids("input_ids"));
  const std::vector<int32_t> positions = golden.ids("positions");
  for (size_t i = 0; i < positions.size(); ++i) {
    expect_close(logits.view().row_range(positions[i], 1),
                 golden.matrix("logits").row_range(static_cast<int64_t>(i), 1),
                 "position " + std::to_string(positions[i]));
  }
}

class EveryFormat : public ::testing::TestWithParam<const formats::Format*> {};

// Fake quantization computes what the packed weight computes, bit for bit: the product sees the
// same FP32 values in the same order.
TEST_P(EveryFormat, PackedAndDecodedWeightsGiveTheSameLogits) {
  const formats::Format& format = *GetParam();
  for (const char* name : {"latent", "grouped"}) {
    const StoredModel stored = open_golden(name);
    const GoldenFile golden(golden_dir() / name / "golden.safetensors");
    const RepackedWeights real(*stored.weights, format, /*is_decoded=*/false);
    const RepackedWeights fake(*stored.weights, format, /*is_decoded=*/true);
    const std::vector<int32_t> ids = golden.ids("input_ids");
    const std::vector<int64_t> n_tokens = {75, 75};
    const Matrix logits = Network(*stored.model, real, 2).forward(ids, n_tokens);
    expect_equal(logits, Network(*stored.model, fake, 2).forward(ids, n_tokens), name);
    if (&format == &formats::bf16_format()) {
      expect_close(logits, golden.matrix("logits"), name);
    } else {
      EXPECT_NE(logits.view().row(0)[0], golden.matrix("logits").row(0)[0]);
    }
  }
}

// Keys and values enter the cache rounded; the hook sees them as they were.
TEST_P(EveryFormat, AttentionReadsRoundedKeysAndValues) {
  const formats::Format& format = *GetParam();
  if (format.input_divisor == 0) GTEST_SKIP() << "no rule for a cache";
  struct Watch : SiteHook {
    void on_input(const Module& linear, ConstAnyMatrixView x) override {
      if (linear.name.ends_with("q_proj")) u = to_host(x);
      if (linear.name.ends_with("o_proj")) attended = to_host(x);
    }
    void on_kv(const AttentionSite&, ConstAnyMatrixView new_k, ConstAnyMatrixView new_v) override {
      k = to_host(new_k);
      v = to_host(new_v);
    }
    Matrix u, k, v, attended;
  } watch;
  const StoredModel stored = open_golden("grouped");
  const RepackedWeights weights(*stored.weights, format, /*is_decoded=*/false);
  const GoldenFile golden(golden_dir() / "grouped/golden.safetensors");
  const std::vector<int32_t> ids = golden.ids("input_ids");
  Network(*stored.model, weights, 1).forward(std::span(ids).first(75), &watch);

  const AttentionSite& site = stored.model->tree().attentions()[0];
  const KvRule rule = weights.kv_rule(site);
  const Module& q_proj = *stored.model->tree().find(site.name + ".q_proj");
  Matrix q(75, q_proj.n);
  LinearSite(q_proj, weights.linear(q_proj)).forward(watch.u, nullptr, q);
  const float first_key = watch.k.view().row(0)[0];
  format.round_input(watch.k, rule.k_scale);
  format.round_input(watch.v, rule.v_scale);
  EXPECT_NE(first_key, watch.k.view().row(0)[0]);
  // Queries meet codes of FP8 as such codes.
  if (format.name == "fp8_e4m3") format.round_input(q, 1);
  const kernels::AttentionSequence sequence{0, 75, 0, watch.k, watch.v};
  kernels::causal_attention({.n_heads = 4, .n_kv_heads = 1, .head_dim = 32}, q, {&sequence, 1}, q);
  expect_equal(watch.attended, q, "attention's output");
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryFormat, ::testing::ValuesIn(formats::all_formats()),
                         [](const auto& info) { return std::string(info.param->name); });

// Counts what it is shown.
struct CountingHook : SiteHook {
  explicit CountingHook(int64_t extra_experts) : extra_experts(extra_experts) {}

  void on_input(const Module& linear, ConstAnyMatrixView x) override {
    EXPECT_EQ(x.cols, linear.k);
    tokens_seen[linear.name] += x.rows;
  }
  void on_routing(int layer, std::span<const int64_t> tokens_per_expert) override {
    routed[layer].assign(tokens_per_expert.begin(), tokens_per_expert.end());
  }
  int64_t statistics_top_k(int64_t top_k, int64_t) override { return top_k + extra_experts; }

  int64_t extra_experts;
  std::map<std::string, int64_t> tokens_seen;
  std::map<int, std::vector<int64_t>> routed;
};

class HookedForward : public ::testing::TestWithParam<std::string> {
 protected:
  // The logits with this hook equal those without any.
  void run(CountingHook& hook) const {
    const std::vector<int32_t> ids = golden_.ids("input_ids");
    const std::vector<int64_t> n_tokens = {75, 75};
    const Matrix logits =
        Network(*stored_.model, *stored_.weights, 2).forward(ids, n_tokens, &hook);
    expect_equal(logits, Network(*stored_.model, *stored_.weights, 2).forward(ids, n_tokens),
                 "logits");
  }

  const StoredModel stored_ = open_golden(GetParam());
  const GoldenFile golden_{golden_dir() / GetParam() / "golden.safetensors"};
};

TEST_P(HookedForward, ShowsEachLinearItsTokensOnce) {
  CountingHook hook(0);
  run(hook);
  EXPECT_FALSE(hook.routed.empty());
  for (const Module& module : stored_.model->tree().modules()) {
    if (module.kind != ModuleKind::kLinear) continue;
    const int64_t expected =
        module.expert < 0 ? 150 : hook.routed.at(module.layer)[static_cast<size_t>(module.expert)];
    EXPECT_EQ(hook.tokens_seen[module.name], expected) << module.name;
  }
  for (const auto& [layer, counts] : hook.routed) {
    int64_t total = 0;
    for (int64_t count : counts) total += count;
    EXPECT_EQ(total, 150 * 3);
  }
}

// With as many extra experts as there are, every expert sees every token, while routing and output
// stay those of the network, also when expert groups would leave some out.
TEST_P(HookedForward, VisitsMoreExpertsForStatisticsAlone) {
  CountingHook plain(0);
  run(plain);
  CountingHook hook(100);
  run(hook);
  EXPECT_EQ(hook.routed, plain.routed);
  for (const Module& module : stored_.model->tree().modules()) {
    if (module.kind != ModuleKind::kLinear) continue;
    EXPECT_EQ(hook.tokens_seen[module.name], 150) << module.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, HookedForward, ::testing::Values("latent", "grouped"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace vernier::model
