#include "runtime/layer_stream.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/testing.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "runtime/head.h"

namespace vernier::runtime {
namespace {

class GoldenStream : public ::testing::TestWithParam<std::string> {
 protected:
  HiddenStore stream(const Windows& windows, const StreamOptions& options) const {
    return stream_layers(*stored_.model, *stored_.weights, windows, options);
  }
  // The golden sequences cut into windows of other lengths, one of them of no token.
  Windows uneven_windows() const {
    Windows windows;
    size_t first = 0;
    for (const size_t length : {40u, 1u, 34u, 0u, 59u, 16u}) {
      windows.emplace_back(ids_.begin() + first, ids_.begin() + first + length);
      first += length;
    }
    return windows;
  }
  Windows golden_windows() const {
    return {{ids_.begin(), ids_.begin() + 75}, {ids_.begin() + 75, ids_.end()}};
  }
  int last_layer() const { return static_cast<int>(stored_.model->tree().layers().size()) - 1; }

  const model::StoredModel stored_ =
      model::open_checkpoint(model::golden_dir() / GetParam() / "checkpoint");
  const model::GoldenFile golden_{model::golden_dir() / GetParam() / "golden.safetensors"};
  const std::vector<text::TokenId> ids_ = golden_.ids("input_ids");
};

TEST_P(GoldenStream, GivesTheGoldenLogits) {
  const HiddenStore hidden = stream(golden_windows(), {});
  model::expect_close(hidden.view(), golden_.matrix("hidden." + std::to_string(last_layer())),
                      "final hidden states");
  Matrix logits(hidden.view().rows, stored_.model->vocab_size());
  compute_logits(*stored_.model, *stored_.weights, hidden.view(), nullptr, logits);
  model::expect_close(logits, golden_.matrix("logits"), "logits");
}

// The same calls in the same order as a network that is loaded as a whole: the same bits.
TEST_P(GoldenStream, EqualsAWholeNetwork) {
  const HiddenStore hidden = stream(golden_windows(), {.batch_windows = 2});
  model::Network network(*stored_.model, *stored_.weights, 2);
  const std::vector<int64_t> n_tokens = {75, 75};
  network.forward(ids_, n_tokens, nullptr, [&](int layer, ConstAnyMatrixView expected) {
    if (layer == last_layer()) model::expect_equal(hidden.view(), expected, "final hidden states");
  });
}

// Products see other shapes, so that sums may be in another order (expect_close says how far).
TEST_P(GoldenStream, BatchesDoNotMatter) {
  const Windows windows = uneven_windows();
  const HiddenStore all = stream(windows, {.batch_windows = 99});
  for (const int64_t batch_windows : {1, 3}) {
    const HiddenStore batched = stream(windows, {.batch_windows = batch_windows});
    model::expect_close(batched.view(), all.view().host(),
                        std::to_string(batch_windows) + " at a time");
  }
}

TEST_P(GoldenStream, EveryWindowStartsFromAnEmptyState) {
  const Windows windows = uneven_windows();
  const HiddenStore together = stream(windows, {.batch_windows = 1});
  int64_t row = 0;
  for (const auto& window : windows) {
    const HiddenStore alone = stream({window}, {});
    model::expect_equal(together.view().row_range(row, alone.view().rows), alone.view(), "window");
    row += alone.view().rows;
  }
  EXPECT_EQ(row, n_tokens(windows));
}

TEST_P(GoldenStream, PlacementDoesNotMatter) {
  const TemporaryDirectory directory;
  const HiddenStore in_memory = stream(uneven_windows(), {.batch_windows = 2});
  const HiddenStore in_file = stream(uneven_windows(), {.batch_windows = 2,
                                                        .placement = HiddenPlacement::kFile,
                                                        .spill_directory = directory.path()});
  model::expect_equal(in_file.view(), in_memory.view(), "in a file");
}

TEST_P(GoldenStream, NoWindowsGiveNoHiddenStates) { EXPECT_EQ(stream({}, {}).view().rows, 0); }

TEST_P(GoldenStream, RefusesIdsOutsideTheVocabulary) {
  for (const text::TokenId id : {384, -1}) {
    const Error error = error_of([&] { stream({{1, 2}, {3, id}}, {}); });
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_EQ(error.message(), "window 1: token id " + std::to_string(id) +
                                   " is outside the model's vocabulary of 384");
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenStream, ::testing::Values("latent", "grouped"),
                         [](const auto& info) { return info.param; });

// Writes down what happens to the weights, and when.
struct Watch : model::WeightSource, model::SiteHook, LayerVisitor, ProgressSink {
  explicit Watch(const model::WeightSource& source) : source(source) {}

  model::LinearWeight linear(const model::Module& module) const override {
    return source.linear(module);
  }
  TensorView tensor(const model::TensorSpec& spec) const override { return source.tensor(spec); }
  model::KvRule kv_rule(const model::AttentionSite& site) const override {
    return source.kv_rule(site);
  }
  void will_need(const model::Module& module) const override { add("will need", module.layer); }
  void done_with(const model::Module& module) const override { add("done with", module.layer); }
  void on_input(const model::Module& linear, ConstAnyMatrixView) override {
    add("running", linear.layer);
  }
  void on_layer_done(int layer) override { add("visiting", layer); }
  void update(const ProgressState& state) override { states.push_back(state); }
  void note(const std::string& sentence) override { ADD_FAILURE() << sentence; }

  void add(const std::string& event, int layer) const {
    const std::string line = event + " " + std::to_string(layer);
    if (events.empty() || events.back() != line) events.push_back(line);
  }

  const model::WeightSource& source;
  mutable std::vector<std::string> events;  // without repetitions in a row
  std::vector<ProgressState> states;
};

class WatchedStream : public ::testing::Test {
 protected:
  WatchedStream() {
    stream_layers(*stored_.model, watch_, {{1, 2, 3}, {4, 5}, {6, 7, 8, 9, 10}},
                  {.batch_windows = 2,
                   .hook = &watch_,
                   .visitor = &watch_,
                   .progress = &watch_,
                   .label = "testing"});
  }
  const model::StoredModel stored_ =
      model::open_checkpoint(model::golden_dir() / "latent/checkpoint");
  Watch watch_{*stored_.weights};
};

TEST_F(WatchedStream, ReadsAheadVisitsAndLetsGo) {
  std::vector<std::string> expected = {"will need 0", "done with -1"};  // the embedding
  for (int layer = 0; layer < 6; ++layer) {
    const std::string number = std::to_string(layer);
    if (layer < 5) expected.push_back("will need " + std::to_string(layer + 1));
    for (const char* event : {"running ", "visiting ", "done with "}) {
      expected.push_back(event + number);
    }
  }
  EXPECT_EQ(watch_.events, expected);
}

// Ten tokens through six layers, in batches of five and five.
TEST_F(WatchedStream, ProgressCountsTokensOfTheWholeNetwork) {
  std::vector<int64_t> done;
  for (const ProgressState& state : watch_.states) {
    EXPECT_EQ(state.total, 10);
    EXPECT_EQ(state.rate_unit, "tokens");
    done.push_back(state.done);
  }
  EXPECT_EQ(done, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(watch_.states.front().label, "testing, layer 1 of 6");
  EXPECT_EQ(watch_.states.back().label, "testing, layer 6 of 6");
}

TEST(LayerStreamDeathTest, ChecksTheBatchSize) {
  const model::StoredModel stored =
      model::open_checkpoint(model::golden_dir() / "latent/checkpoint");
  EXPECT_DEATH(stream_layers(*stored.model, *stored.weights, {{1}}, {.batch_windows = 0}),
               "batch_windows > 0");
}

}  // namespace
}  // namespace vernier::runtime
