// What is measured, never how fast it is. Copies of the weights are there to exceed caches; the
// golden network's are so small that a few hundred of each are made.
#include "search/gemm_times.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/test_support.h"
#include "search/golden_subject.h"

namespace vernier::search {
namespace {

using kernels::kTargets;

std::unique_ptr<model::Model> open_network(const std::string& name) {
  const auto path = model::golden_dir() / name / "checkpoint/config.json";
  return model::open_model(io::read_json(path), path.string());
}

class Recorder : public ProgressSink {
 public:
  void update(const ProgressState& state) override { states.push_back(state); }
  void note(const std::string&) override {}

  std::vector<ProgressState> states;
};

const GemmShape* find(const std::vector<GemmShape>& shapes, int64_t n, int64_t k, bool is_routed) {
  const auto found = std::ranges::find_if(shapes, [&](const GemmShape& shape) {
    return shape.n == n && shape.k == k && shape.is_routed == is_routed;
  });
  return found == shapes.end() ? nullptr : &*found;
}

TEST(GemmShapes, AreDistinctAndHoldEveryLinear) {
  const auto network = open_network("latent");
  const std::vector<GemmShape> shapes = gemm_shapes(*network);
  int64_t n_weights = 0;
  for (const GemmShape& shape : shapes) {
    n_weights += shape.count * shape.n * shape.k;
    EXPECT_EQ(find(shapes, shape.n, shape.k, shape.is_routed), &shape) << "twice";
  }
  int64_t expected = 0;
  for (const model::Module& module : network->tree().modules()) {
    if (module.kind == model::ModuleKind::kLinear) expected += module.n * module.k;
  }
  EXPECT_EQ(n_weights, expected);
}

// Two layers of 8 experts 48 wide over 32 latent channels, of which a token visits 3.
TEST(GemmShapes, TellExpertsApart) {
  const auto network = open_network("latent");
  const std::vector<GemmShape> shapes = gemm_shapes(*network);
  const GemmShape* up = find(shapes, 48, 32, true);
  ASSERT_NE(up, nullptr);
  EXPECT_EQ(up->count, 16);
  EXPECT_EQ(up->n_together, 8);
  EXPECT_DOUBLE_EQ(up->active_share, 3.0 / 8);
  const GemmShape* head = find(shapes, 384, 64, false);
  ASSERT_NE(head, nullptr);
  EXPECT_EQ(head->count, 1);
  EXPECT_EQ(head->n_together, 1);
  EXPECT_EQ(head->active_share, 1);
}

TEST(DistinctFormats, LeaveOutRulesOfScales) {
  const auto formats = distinct_formats(
      parse_candidates("nvfp4_sweep,bf16,nvfp4,w4a16_nvfp4,nvfp4_four_over_six,fp8"));
  const std::vector<const Candidate*> expected = {nullptr, &find_candidate("nvfp4_sweep"),
                                                  &find_candidate("w4a16_nvfp4"),
                                                  &find_candidate("fp8")};
  EXPECT_EQ(formats, expected);
}

class GemmBenchOnEveryTarget : public kernels::OnEveryTarget {
 protected:
  GemmTable measure(const model::Model& network, const std::string& candidates,
                    ProgressSink* progress = nullptr) {
    return measure_gemm_table({.model = network,
                               .candidates = parse_candidates(candidates),
                               .prefill_tokens = 16,
                               .decode_tokens = 1,
                               .max_seconds = 1e-4,
                               .device_name = "a device",
                               .device = device(),
                               .progress = progress});
  }
};
VERNIER_ON_EVERY_TARGET(GemmBenchOnEveryTarget);

// All that a search may ask for.
TEST_P(GemmBenchOnEveryTarget, HasARowForEveryGroupAndCandidate) {
  const auto network = open_network("latent");
  const GemmTable table =
      measure(*network, "bf16,fp8,nvfp4,nvfp4_sweep,nvfp4_four_over_six,w4a16_nvfp4");
  EXPECT_EQ(table.device, "a device");
  EXPECT_EQ(table.prefill_tokens, 16);
  EXPECT_EQ(table.decode_tokens, 1);
  EXPECT_EQ(table.rows.size(), 4 * gemm_shapes(*network).size());

  const std::vector<ModuleGroup> groups = make_groups(network->tree());
  const double share = routed_share(*network, groups);
  for (const ModuleGroup& group : groups) {
    const ScoredGroup scored{.is_routed = group.is_routed,
                             .shapes = shapes_of(group, group.is_routed ? share : 1)};
    for (const Candidate& candidate : all_candidates()) {
      for (const ServingPhase phase : {ServingPhase::kPrefill, ServingPhase::kDecode}) {
        EXPECT_GT(table.seconds(scored, &candidate, phase), 0) << group.name << candidate.name;
      }
    }
    EXPECT_GT(table.seconds(scored, nullptr, ServingPhase::kDecode), 0) << group.name;
  }
}

// Of 16 tokens an expert that a token visits with 3 of 8 sees 6.
TEST_P(GemmBenchOnEveryTarget, RowsSayTheirTokens) {
  const auto network = open_network("latent");
  Recorder recorder;
  const GemmTable table = measure(*network, "", &recorder);
  ASSERT_EQ(table.rows.size(), gemm_shapes(*network).size());
  for (const GemmRow& row : table.rows) {
    EXPECT_EQ(row.weight_format, "bf16");
    EXPECT_EQ(row.prefill_tokens, row.is_routed ? 6 : 16);
    EXPECT_EQ(row.decode_tokens, 1);
    EXPECT_GT(row.prefill_seconds, 0);
    EXPECT_GT(row.decode_seconds, 0);
  }
  ASSERT_EQ(recorder.states.size(), table.rows.size());
  EXPECT_EQ(recorder.states.back().done + 1, recorder.states.back().total);
}

}  // namespace
}  // namespace vernier::search
