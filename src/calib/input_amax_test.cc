// Every branch from observed maxima to stored ones, on small plans made by hand.
#include "calib/input_amax.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace vernier::calib {
namespace {

const formats::Format& nvfp4() { return *formats::find_format("nvfp4"); }
const formats::Format& fp8() { return *formats::find_format("fp8_e4m3"); }

class InputAmaxTest : public ::testing::Test {
 protected:
  static constexpr int kLayer = 2;

  // All modules first, since the plan points to them.
  void add(const std::string& name, int expert, const std::string& fusion_group) {
    model::Module module;
    module.name = name;
    module.layer = kLayer;
    module.expert = expert;
    module.fusion_group = fusion_group;
    if (expert >= 0) module.expert_group = "experts." + name;
    modules_.push_back(module);
  }
  void add_experts(int n_experts) {
    for (int expert = 0; expert < n_experts; ++expert) add("up_proj", expert, "");
  }
  void plan(const formats::Format& format) {
    for (const model::Module& module : modules_) {
      plan_.sites.push_back(
          {.module = &module, .weight_format = &format, .scale_rule = {}, .input_format = &format});
    }
  }
  void observe(size_t module, float amax) { statistics_.input_amax[&modules_[module]] = amax; }

  InputAmax resolved(size_t module, bool share_experts = true) const {
    return resolve_input_amax(plan_, kLayer, statistics_, share_experts).at(&modules_[module]);
  }
  void expect(const InputAmax& found, float amax, AmaxSource source) const {
    EXPECT_EQ(found.amax, amax);
    EXPECT_EQ(to_string(found.source), to_string(source));
  }

  std::vector<model::Module> modules_;
  quant::QuantPlan plan_;
  LayerStatistics statistics_;
};

TEST_F(InputAmaxTest, AModuleOnItsOwnKeepsItsOwn) {
  add("in_proj", -1, "");
  add("out_proj", -1, "");
  plan(nvfp4());
  observe(0, 3);
  observe(1, 5);
  expect(resolved(0), 3, AmaxSource::kObserved);
  expect(resolved(1), 5, AmaxSource::kObserved);
}

TEST_F(InputAmaxTest, InputsThatWereAlwaysZeroGetTheScaleOne) {
  add("in_proj", -1, "");
  add("out_proj", -1, "");
  plan(nvfp4());
  plan_.sites[1].input_format = &fp8();
  observe(0, 0);  // seen and zero; the other one was never seen
  expect(resolved(0), 2688, AmaxSource::kDefault);
  expect(resolved(1), 448, AmaxSource::kDefault);
}

// 2688 * 2^-125 is the least amax whose scale is a normal number with room for its rounding.
TEST_F(InputAmaxTest, NoScaleUnderflows) {
  add("in_proj", -1, "");
  plan(nvfp4());
  observe(0, 1e-44f);
  expect(resolved(0), 2688 * 0x1p-125f, AmaxSource::kObserved);
}

TEST_F(InputAmaxTest, AConstantStands) {
  add("in_proj", -1, "");
  plan(nvfp4());
  plan_.sites[0].constant_input_amax = 2688.0f;
  observe(0, 7);
  expect(resolved(0), 2688, AmaxSource::kConstant);
}

TEST_F(InputAmaxTest, UnquantizedInputsAndOtherLayersAreAbsent) {
  add("in_proj", -1, "");
  add("elsewhere", -1, "");
  modules_[1].layer = kLayer + 1;
  plan(nvfp4());
  plan_.sites[0].input_format = nullptr;
  EXPECT_TRUE(resolve_input_amax(plan_, kLayer, statistics_, true).empty());
}

TEST_F(InputAmaxTest, FusedLinearsShareWithBlockScales) {
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) add(name, -1, "qkv_proj");
  plan(nvfp4());
  observe(0, 1);
  observe(1, 4);
  observe(2, 2);
  expect(resolved(0), 4, AmaxSource::kShared);
  expect(resolved(1), 4, AmaxSource::kObserved);
  expect(resolved(2), 4, AmaxSource::kShared);
}

TEST_F(InputAmaxTest, FusedLinearsKeepTheirOwnWithOneScaleATensor) {
  for (const char* name : {"q_proj", "k_proj", "v_proj"}) add(name, -1, "qkv_proj");
  plan(fp8());
  observe(0, 1);
  observe(1, 4);
  observe(2, 2);
  expect(resolved(0), 1, AmaxSource::kObserved);
  expect(resolved(1), 4, AmaxSource::kObserved);
  expect(resolved(2), 2, AmaxSource::kObserved);
}

TEST_F(InputAmaxTest, ExpertsShareTheLargest) {
  add_experts(3);
  plan(fp8());
  observe(0, 2);
  observe(1, 6);
  expect(resolved(0), 6, AmaxSource::kShared);
  expect(resolved(1), 6, AmaxSource::kObserved);
  expect(resolved(2), 6, AmaxSource::kShared);
}

TEST_F(InputAmaxTest, ExpertsOnTheirOwnAskTheOthersOnlyWithoutTokens) {
  add_experts(4);
  plan(nvfp4());
  observe(0, 2);
  observe(1, 6);
  observe(3, 0);  // tokens, but all zero
  expect(resolved(0, false), 2, AmaxSource::kObserved);
  expect(resolved(1, false), 6, AmaxSource::kObserved);
  expect(resolved(2, false), 6, AmaxSource::kOtherExperts);
  expect(resolved(3, false), 6, AmaxSource::kOtherExperts);
}

TEST_F(InputAmaxTest, ExpertsThatNoTokenReachedGetAHalf) {
  add_experts(2);
  plan(nvfp4());
  for (const bool share_experts : {true, false}) {
    expect(resolved(0, share_experts), 0.5f, AmaxSource::kDefault);
    expect(resolved(1, share_experts), 0.5f, AmaxSource::kDefault);
  }
}

TEST_F(InputAmaxTest, ProjectionsOfExpertsDoNotShare) {
  add("up_proj", 0, "");
  add("down_proj", 0, "");
  plan(nvfp4());
  observe(0, 3);
  observe(1, 8);
  expect(resolved(0), 3, AmaxSource::kObserved);
  expect(resolved(1), 8, AmaxSource::kObserved);
}

TEST_F(InputAmaxTest, KeysAndValues) {
  expect(resolve_kv_amax(3), 3, AmaxSource::kObserved);
  expect(resolve_kv_amax(0), 448, AmaxSource::kDefault);
  expect(resolve_kv_amax(1e-44f), 448 * 0x1p-125f, AmaxSource::kObserved);
}

TEST_F(InputAmaxTest, SourcesReadBack) {
  for (const AmaxSource source :
       {AmaxSource::kObserved, AmaxSource::kShared, AmaxSource::kOtherExperts, AmaxSource::kDefault,
        AmaxSource::kConstant}) {
    EXPECT_EQ(amax_source_from_string(to_string(source)), source);
  }
  EXPECT_EQ(to_string(AmaxSource::kOtherExperts), "other experts");
}

}  // namespace
}  // namespace vernier::calib
