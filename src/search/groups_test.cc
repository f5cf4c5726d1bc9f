#include "search/groups.h"

#include <gtest/gtest.h>

#include "search/golden_subject.h"

namespace vernier::search {
namespace {

std::vector<std::string> names(const std::vector<ModuleGroup>& groups) {
  std::vector<std::string> names;
  for (const ModuleGroup& group : groups) names.push_back(group.name);
  return names;
}

TEST(Groups, FollowWhatServersFuse) {
  const model::StoredModel stored = open_golden("latent");
  const std::vector<ModuleGroup> groups = make_groups(stored.model->tree());
  const std::vector<std::string> found = names(groups);
  const auto has = [&](const std::string& name) {
    return std::ranges::count(found, "backbone.layers." + name) == 1;
  };
  EXPECT_TRUE(has("0.mixer.in_proj"));
  EXPECT_TRUE(has("1.mixer.experts"));
  EXPECT_TRUE(has("1.mixer.shared_experts.up_proj"));
  EXPECT_TRUE(has("1.mixer.fc1_latent_proj"));
  EXPECT_TRUE(has("2.mixer.qkv_proj"));
  EXPECT_TRUE(has("2.mixer.o_proj"));
  EXPECT_EQ(found.back(), "lm_head");
}

TEST(Groups, HoldEveryLinearOnce) {
  const model::StoredModel stored = open_golden("grouped");
  const std::vector<ModuleGroup> groups = make_groups(stored.model->tree());
  const GroupIndex index(groups);
  int64_t n_weights = 0;
  for (const model::Module& module : stored.model->tree().modules()) {
    if (module.kind != model::ModuleKind::kLinear) continue;
    n_weights += module.n * module.k;
    const ModuleGroup& group = groups[index.of(module)];
    EXPECT_EQ(std::ranges::count(group.modules, &module), 1) << module.name;
    EXPECT_EQ(group.layer, module.layer);
    EXPECT_EQ(group.is_routed, module.expert >= 0);
  }
  int64_t in_groups = 0;
  for (const ModuleGroup& group : groups) in_groups += group.n_weights;
  EXPECT_EQ(in_groups, n_weights);
}

// Both projections of all experts of a layer: 2 x 8 modules.
TEST(Groups, ExpertsOfALayerAreOne) {
  const model::StoredModel stored = open_golden("latent");
  for (const ModuleGroup& group : make_groups(stored.model->tree())) {
    if (!group.is_routed) continue;
    EXPECT_EQ(group.modules.size(), 16u) << group.name;
  }
}

}  // namespace
}  // namespace vernier::search
