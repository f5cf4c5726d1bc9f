#include "runtime/generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "base/testing.h"
#include "model/stored_model.h"
#include "model/test_network.h"

namespace vernier::runtime {
namespace {

using Ids = std::vector<text::TokenId>;

class GoldenGeneration : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr size_t kPromptTokens = 20;

  const model::StoredModel stored_ =
      model::open_checkpoint(model::golden_dir() / GetParam() / "checkpoint");
  const Ids all_ =
      model::GoldenFile(model::golden_dir() / GetParam() / "golden.safetensors").ids("greedy_ids");
  const Ids prompt_{all_.begin(), all_.begin() + kPromptTokens};
  const Ids expected_{all_.begin() + kPromptTokens, all_.end()};

  Generator generator(const Ids& eos_ids) const {
    return Generator(*stored_.model, *stored_.weights, eos_ids);
  }
};

TEST_P(GoldenGeneration, GreedyTokens) {
  Ids seen;
  const Generation generation =
      generator({}).generate(prompt_, static_cast<int64_t>(expected_.size()), {}, 0,
                             [&](text::TokenId id) { seen.push_back(id); });
  EXPECT_EQ(generation.ids, expected_);
  EXPECT_EQ(generation.stop, StopReason::kLength);
  EXPECT_EQ(seen, expected_);
}

TEST_P(GoldenGeneration, StopsAtAnyEndOfSequenceId) {
  const text::TokenId eos = expected_[7];
  const auto first = std::find(expected_.begin(), expected_.end(), eos);
  const Generation generation = generator({-1, eos}).generate(prompt_, 24, {}, 0, nullptr);
  EXPECT_EQ(generation.ids, Ids(expected_.begin(), first + 1));
  EXPECT_EQ(generation.stop, StopReason::kEndOfSequence);
}

TEST_P(GoldenGeneration, SamplesByStream) {
  const Generator generator = this->generator({});
  const SamplingOptions options{.temperature = 1, .seed = 5};
  const Ids first = generator.generate(prompt_, 16, options, 0, nullptr).ids;
  EXPECT_EQ(generator.generate(prompt_, 16, options, 0, nullptr).ids, first);
  EXPECT_NE(generator.generate(prompt_, 16, options, 1, nullptr).ids, first);
  EXPECT_EQ(generator.generate(prompt_, 16, {.temperature = 1, .top_k = 1}, 0, nullptr).ids,
            Ids(expected_.begin(), expected_.begin() + 16));
}

TEST_P(GoldenGeneration, NothingIsAskedFor) {
  EXPECT_TRUE(generator({}).generate(prompt_, 0, {}, 0, nullptr).ids.empty());
}

TEST_P(GoldenGeneration, RefusesPromptsItCannotStartFrom) {
  const Generator generator = this->generator({});
  const auto message = [&](const Ids& prompt) {
    const Error error = error_of([&] { generator.generate(prompt, 1, {}, 0, nullptr); });
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    return error.message();
  };
  EXPECT_EQ(message({}), "the prompt has no tokens, expected at least one to start from");
  EXPECT_EQ(message({5, 384}),
            "the prompt's token id 384 is outside the model's vocabulary of 384");
  EXPECT_EQ(message({-1}), "the prompt's token id -1 is outside the model's vocabulary of 384");
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenGeneration, ::testing::Values("latent", "grouped"),
                         [](const auto& info) { return info.param; });

TEST(TinyGeneration, GreedyTokensOfThreePrompts) {
  const model::StoredModel stored =
      model::open_checkpoint(std::filesystem::path(VERNIER_SOURCE_DIR) / "models/tiny");
  const io::Json golden = io::read_json(model::golden_dir() / "tiny.json");
  const Generator generator(*stored.model, *stored.weights, {});
  for (const io::Json& generation : golden.at("generations")) {
    const auto expected = generation.at("greedy_ids").get<Ids>();
    const Ids prompt = generation.at("prompt_ids").get<Ids>();
    EXPECT_EQ(generator.generate(prompt, static_cast<int64_t>(expected.size()), {}, 0, nullptr).ids,
              expected)
        << generation.at("prompt");
  }
}

}  // namespace
}  // namespace vernier::runtime
