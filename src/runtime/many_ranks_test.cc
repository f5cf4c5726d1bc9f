// Networks that several ranks run together, in every layout they can be cut by, against one rank.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "comm/test_layouts.h"
#include "comm/thread_ranks.h"
#include "kernels/linear.h"
#include "kernels/loss.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "runtime/backward_stream.h"
#include "runtime/generator.h"
#include "runtime/head.h"
#include "runtime/layer_stream.h"

namespace vernier::runtime {
namespace {

struct Subject {
  std::string checkpoint;
  comm::LayoutSizes sizes;
};

void PrintTo(const Subject& subject, std::ostream* out) {
  *out << subject.checkpoint << " " << subject.sizes.name();
}

std::vector<Subject> subjects() {
  std::vector<Subject> all;
  for (const comm::LayoutSizes& sizes : comm::all_layouts(8, {1, 2}, 4, 8))
    all.push_back({"latent", sizes});
  for (const comm::LayoutSizes& sizes : comm::all_layouts(4, {1}, 4, 8))
    all.push_back({"grouped", sizes});
  return all;
}

class ManyRanks : public ::testing::TestWithParam<Subject> {
 protected:
  std::filesystem::path directory() const {
    return model::golden_dir() / GetParam().checkpoint / "checkpoint";
  }
  std::vector<int32_t> golden_ids(const char* name) const {
    return model::GoldenFile(model::golden_dir() / GetParam().checkpoint / "golden.safetensors")
        .ids(name);
  }

  // Calls body(ranks, stored, weights) on every rank.
  template <class Body>
  void run(const Body& body) const {
    const comm::LayoutSizes sizes = GetParam().sizes;
    comm::run_thread_ranks(static_cast<int>(sizes.world()), [&](const comm::Communicator& world) {
      kernels::configure_host_threads();
      const comm::Ranks ranks(world, comm::Layout(sizes.world(), sizes.tp, sizes.pp, sizes.ep));
      const model::StoredModel stored = model::open_checkpoint(directory(), &ranks);
      body(ranks, stored, *model::share_of_weights(stored.weights, ranks));
    });
  }
};

// Three windows of unlike lengths, so that replicas have unlike numbers of batches.
TEST_P(ManyRanks, LogitsAreThoseOfOneRank) {
  const std::vector<int32_t> ids = golden_ids("input_ids");
  const Windows windows = {{ids.begin(), ids.begin() + 75},
                           {ids.begin() + 75, ids.begin() + 100},
                           {ids.begin() + 100, ids.end()}};
  const model::StoredModel one = model::open_checkpoint(directory());
  const auto logits_of = [](const model::StoredModel& stored, const model::WeightSource& weights,
                            const HiddenStore& hidden) {
    Matrix logits(hidden.view().rows, stored.model->vocab_size());
    compute_logits(*stored.model, weights, hidden.view(), nullptr, logits);
    return logits;
  };
  const Matrix expected =
      logits_of(one, *one.weights, stream_layers(*one.model, *one.weights, windows, {}));

  for (const bool is_batch_major : {false, true}) {
    run([&](const comm::Ranks& ranks, const model::StoredModel& stored,
            const model::WeightSource& weights) {
      const comm::Range here = comm::part_of(std::ssize(windows), ranks.place().data);
      const Windows own(windows.begin() + here.begin, windows.begin() + here.end);
      StreamOptions options;
      options.batch_windows = 1;
      options.is_batch_major = is_batch_major;
      const HiddenStore hidden = stream_layers(*stored.model, weights, own, options);
      if (!ranks.is_last_stage() || own.empty()) return;
      const int64_t first = n_tokens({windows.begin(), windows.begin() + here.begin});
      model::expect_close(logits_of(stored, weights, hidden),
                          expected.view().row_range(first, n_tokens(own)), "logits");
    });
  }
}

// Of two losses at once, what reaches the first layer's input: through every layer's backward pass.
TEST_P(ManyRanks, GradientsAreThoseOfOneRank) {
  const std::vector<int32_t> ids = golden_ids("input_ids");
  const Windows windows = {{ids.begin(), ids.begin() + 40},
                           {ids.begin() + 40, ids.begin() + 65},
                           {ids.begin() + 65, ids.begin() + 100}};
  const auto gradients_of = [](const model::Model& model, const model::WeightSource& weights,
                               const Windows& own, int64_t first_token) {
    LayerInputs inputs;
    for (size_t layer = 0; layer < model.tree().layers().size(); ++layer) {
      inputs.emplace_back(n_tokens(own), model.hidden_size(), HiddenPlacement::kMemory, ".");
    }
    const HiddenStore hidden =
        stream_layers(model, weights, own, {.batch_windows = 1, .inputs = &inputs});
    HiddenStore gradients(n_tokens(own), 2 * model.hidden_size(), HiddenPlacement::kMemory, ".");
    const auto probe = [&](uint64_t seed) {
      return [seed, first_token](int64_t first, ConstAnyMatrixView logits, AnyMatrixView g) {
        kernels::fisher_probe(logits, seed, static_cast<uint64_t>(first_token + first), 1.0f, g);
      };
    };
    const std::vector<LossGradient> losses = {probe(1), probe(2)};
    backward_from_logits(model, weights, hidden, losses, gradients, {});
    stream_layers_backward(model, weights, own, inputs, gradients, {.batch_windows = 1});
    return gradients;
  };
  const model::StoredModel one = model::open_checkpoint(directory());
  const HiddenStore expected = gradients_of(*one.model, *one.weights, windows, 0);

  run([&](const comm::Ranks& ranks, const model::StoredModel& stored,
          const model::WeightSource& weights) {
    const comm::Range here = comm::part_of(std::ssize(windows), ranks.place().data);
    const Windows own(windows.begin() + here.begin, windows.begin() + here.end);
    const int64_t first = n_tokens({windows.begin(), windows.begin() + here.begin});
    const HiddenStore gradients = gradients_of(*stored.model, weights, own, first);
    if (!ranks.is_first_stage() || own.empty()) return;
    model::expect_close(gradients.view().host(),
                        expected.view().row_range(first, n_tokens(own)).host(), "gradients");
  });
}

TEST_P(ManyRanks, GreedyTextIsThatOfOneRank) {
  const std::vector<int32_t> expected = golden_ids("greedy_ids");
  constexpr size_t kPrompt = 20;
  run([&](const comm::Ranks&, const model::StoredModel& stored,
          const model::WeightSource& weights) {
    const Generator generator(*stored.model, weights, {});
    const std::vector<int32_t> prompt(expected.begin(), expected.begin() + kPrompt);
    const Generation generation = generator.generate(
        prompt, std::ssize(expected) - static_cast<int64_t>(kPrompt), {}, 0, nullptr);
    EXPECT_EQ(generation.ids, std::vector<int32_t>(expected.begin() + kPrompt, expected.end()));
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, ManyRanks, ::testing::ValuesIn(subjects()), [](const auto& info) {
  return info.param.checkpoint + "_" + info.param.sizes.name();
});

}  // namespace
}  // namespace vernier::runtime
