// Sensitivities that several ranks measure together, in every layout, against one rank's.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "base/testing.h"
#include "comm/test_layouts.h"
#include "comm/thread_ranks.h"
#include "kernels/linear.h"
#include "model/stored_model.h"
#include "model/test_network.h"
#include "search/sensitivity.h"

namespace vernier::search {
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
  for (const comm::LayoutSizes& sizes : comm::all_layouts(4, {1, 2}, 3, 8))
    all.push_back({"latent", sizes});
  for (const comm::LayoutSizes& sizes : comm::all_layouts(4, {1}, 2, 8))
    all.push_back({"grouped", sizes});
  // Two ranks to each KV head.
  all.push_back({"tiny", {.tp = 4, .ep = 2}});
  all.push_back({"tiny", {.tp = 4, .pp = 2}});
  return all;
}

std::filesystem::path directory_of(const std::string& checkpoint) {
  return checkpoint == "tiny" ? std::filesystem::path(VERNIER_SOURCE_DIR) / "models/tiny"
                              : model::golden_dir() / checkpoint / "checkpoint";
}

runtime::Windows made_up_windows(int64_t vocab_size) {
  runtime::Windows windows;
  for (int64_t window = 0; window < 3; ++window) {
    auto& ids = windows.emplace_back();
    for (int64_t t = 0; t < 20 + window; ++t) {
      ids.push_back(static_cast<text::TokenId>((7919 * (100 * window + t) + 13) % vocab_size));
    }
  }
  return windows;
}

// The journal of each rank is a file of its own; empty: none.
std::vector<GroupScores> measure(const std::string& checkpoint, const comm::Ranks* ranks,
                                 double score_tokens, const std::filesystem::path& journal_path) {
  kernels::configure_host_threads();
  const model::StoredModel stored = model::open_checkpoint(directory_of(checkpoint), ranks);
  const comm::Ranks& all = stored.model->ranks();
  const auto weights = model::share_of_weights(stored.weights, all);
  std::optional<io::Journal> journal;
  if (!journal_path.empty()) journal.emplace(journal_path);
  return measure_sensitivity({.model = *stored.model,
                              .weights = *weights,
                              .candidates = parse_candidates("nvfp4,fp8"),
                              .windows = made_up_windows(stored.model->vocab_size()),
                              .chunk_windows = 2,
                              .batch_windows = 1,
                              .kinds = {.fisher = true, .gauss_newton = true},
                              .score_tokens = score_tokens,
                              .journal = journal ? &*journal : nullptr})
      .scores;
}

// Measured once.
const std::vector<GroupScores>& of_one_rank(const std::string& checkpoint, double score_tokens) {
  static std::map<std::pair<std::string, double>, std::vector<GroupScores>> known;
  const auto [at, is_new] = known.try_emplace({checkpoint, score_tokens});
  if (is_new) at->second = measure(checkpoint, nullptr, score_tokens, {});
  return at->second;
}

template <class Body>
void on_ranks(const comm::LayoutSizes& sizes, const Body& body) {
  comm::run_thread_ranks(static_cast<int>(sizes.world()), [&](const comm::Communicator& world) {
    kernels::configure_host_threads();
    body(comm::Ranks(world, comm::Layout(sizes.world(), sizes.tp, sizes.pp, sizes.ep)));
  });
}

// Sums run in another order: a value at a tie of its format may fall the other way, or a token at
// one of the router: a few of the 63 tokens' scores. Sums over windows cancel and show it more.
void expect_near(const std::vector<GroupScores>& found, const std::vector<GroupScores>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t group = 0; group < expected.size(); ++group) {
    ASSERT_EQ(found[group].size(), expected[group].size()) << group;
    for (size_t candidate = 0; candidate < expected[group].size(); ++candidate) {
      const Score& wanted = *expected[group][candidate];
      const Score& score = *found[group][candidate];
      const std::string place = fmt::format("group {}, candidate {}", group, candidate);
      EXPECT_NEAR(score.fisher / wanted.fisher, 1, 0.02) << place;
      EXPECT_NEAR(score.gauss_newton / wanted.gauss_newton, 1, 0.02) << place;
      EXPECT_NEAR(score.gauss_newton_windows / wanted.gauss_newton_windows, 1, 0.1) << place;
    }
  }
}

void expect_equal(const std::vector<GroupScores>& found, const std::vector<GroupScores>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t group = 0; group < expected.size(); ++group) {
    for (size_t candidate = 0; candidate < expected[group].size(); ++candidate) {
      const Score& wanted = *expected[group][candidate];
      const Score& score = *found[group][candidate];
      EXPECT_EQ(score.fisher, wanted.fisher) << group;
      EXPECT_EQ(score.gauss_newton, wanted.gauss_newton) << group;
      EXPECT_EQ(score.gauss_newton_windows, wanted.gauss_newton_windows) << group;
    }
  }
}

class ManyRanks : public ::testing::TestWithParam<Subject> {};
class ManyRanksGoOn : public ::testing::TestWithParam<Subject> {};

TEST_P(ManyRanks, ScoresAreThoseOfOneRank) {
  for (const double score_tokens : {1.0, 0.6}) {
    const auto& expected = of_one_rank(GetParam().checkpoint, score_tokens);
    on_ranks(GetParam().sizes, [&](const comm::Ranks& ranks) {
      expect_near(measure(GetParam().checkpoint, &ranks, score_tokens, {}), expected);
    });
  }
}

// Ranks have kept unlike numbers of records when they are killed.
TEST_P(ManyRanksGoOn, FromUnlikeRecords) {
  const TemporaryDirectory directory;
  const auto journal_of = [&](const comm::Ranks& ranks) {
    return directory / fmt::format("journal {}", ranks.world().rank());
  };
  std::vector<std::vector<GroupScores>> whole(static_cast<size_t>(GetParam().sizes.world()));
  on_ranks(GetParam().sizes, [&](const comm::Ranks& ranks) {
    whole[static_cast<size_t>(ranks.world().rank())] =
        measure(GetParam().checkpoint, &ranks, 1, journal_of(ranks));
  });
  for (int rank = 0; rank < GetParam().sizes.world(); ++rank) {
    const auto path = directory / fmt::format("journal {}", rank);
    std::filesystem::resize_file(path, std::filesystem::file_size(path) * (rank % 3 + 1) / 4);
  }
  on_ranks(GetParam().sizes, [&](const comm::Ranks& ranks) {
    expect_equal(measure(GetParam().checkpoint, &ranks, 1, journal_of(ranks)),
                 whole[static_cast<size_t>(ranks.world().rank())]);
  });
}

std::string name_of(const ::testing::TestParamInfo<Subject>& info) {
  return info.param.checkpoint + "_" + info.param.sizes.name();
}

INSTANTIATE_TEST_SUITE_P(Layouts, ManyRanks, ::testing::ValuesIn(subjects()), name_of);
INSTANTIATE_TEST_SUITE_P(Layouts, ManyRanksGoOn,
                         ::testing::Values(Subject{"latent", {.dp = 3}},
                                           Subject{"latent", {.ep = 4, .dp = 4}},
                                           Subject{"latent", {.tp = 2, .pp = 2, .ep = 2}},
                                           Subject{"grouped", {.pp = 2, .ep = 2, .dp = 2}}),
                         name_of);

}  // namespace
}  // namespace vernier::search
