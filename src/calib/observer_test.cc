#include "calib/observer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/testing.h"

namespace vernier::calib {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// Three linears of layer 4, of which the first is rounded by what is observed, the second by a
// constant, the third not at all; and an attention layer.
class ObserverTest : public ::testing::Test {
 protected:
  ObserverTest() {
    modules_.resize(3);
    for (size_t index = 0; index < modules_.size(); ++index) {
      modules_[index].name = "linear." + std::to_string(index);
      modules_[index].layer = 4;
      plan_.sites.push_back({.module = &modules_[index], .weight_format = &formats::bf16_format()});
    }
    plan_.sites[0].input_format = formats::find_format("nvfp4");
    plan_.sites[1].input_format = formats::find_format("nvfp4");
    plan_.sites[1].constant_input_amax = 1.0f;
    plan_.kv.push_back({.site = &attention_, .format = formats::find_format("fp8_e4m3")});
  }

  void observe(AmaxObserver& observer, size_t module, std::vector<float> values) const {
    observer.on_input(modules_[module],
                      ConstMatrixView(values.data(), 1, static_cast<int64_t>(values.size())));
  }
  void observe_kv(AmaxObserver& observer, float k, float v) const {
    observer.on_kv(attention_, ConstMatrixView(&k, 1, 1), ConstMatrixView(&v, 1, 1));
  }

  std::vector<model::Module> modules_;
  const model::AttentionSite attention_{"mixer", 4, "k_proj", "v_proj"};
  quant::QuantPlan plan_;
};

TEST_F(ObserverTest, KeepsTheLargestMagnitude) {
  AmaxObserver observer(plan_, 0);
  observe(observer, 0, {1, -2.5f, 0});
  observe(observer, 0, {-0.0f, 2});
  observe_kv(observer, -3, 0.5f);
  observe_kv(observer, 1, -0.75f);
  const LayerStatistics seen = observer.layer(4);
  EXPECT_EQ(seen.input_amax.at(&modules_[0]), 2.5f);
  EXPECT_EQ(seen.kv_amax.at(&attention_).k, 3);
  EXPECT_EQ(seen.kv_amax.at(&attention_).v, 0.75f);
}

// Rows further apart than they are long: what lies between them is not seen.
TEST_F(ObserverTest, SeesRowsOnly) {
  const std::vector<float> values = {1, 2, 99, 3, 4, 99};
  AmaxObserver observer(plan_, 0);
  observer.on_input(modules_[0], ConstMatrixView(values.data(), 2, 2, 3));
  EXPECT_EQ(observer.layer(4).input_amax.at(&modules_[0]), 4);
}

TEST_F(ObserverTest, LeavesAloneWhatThePlanDoesNotNeed) {
  plan_.kv[0].is_cast = true;
  AmaxObserver observer(plan_, 0);
  observe(observer, 1, {kInf});
  observe(observer, 2, {kInf});
  observe_kv(observer, kInf, kInf);
  EXPECT_TRUE(observer.layer(4).input_amax.empty());
  EXPECT_TRUE(observer.layer(4).kv_amax.empty());
  EXPECT_TRUE(observer.layer(5).input_amax.empty());
}

TEST_F(ObserverTest, NonFiniteActivationsNameTheSite) {
  for (const float bad : {kInf, -kInf, std::nanf(""), -std::nanf("")}) {
    AmaxObserver observer(plan_, 0);
    observe(observer, 0, {1, bad, 3});
    observe(observer, 0, {1, 2, 3});
    const Error error = error_of([&] { observer.layer(4); });
    EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
    EXPECT_EQ(
        error.message(),
        "calibration: the inputs of linear.0 hold a value that is not finite, expected finite "
        "activations on this text (check the checkpoint's weights)");
  }
  AmaxObserver keys(plan_, 0);
  observe_kv(keys, kInf, 0);
  EXPECT_THAT(error_of([&] { keys.layer(4); }).message(),
              ::testing::StartsWith("calibration: the keys of mixer hold a value"));
  AmaxObserver values(plan_, 0);
  observe_kv(values, 0, kInf);
  EXPECT_THAT(error_of([&] { values.layer(4); }).message(),
              ::testing::StartsWith("calibration: the values of mixer hold a value"));
}

TEST_F(ObserverTest, CountsTokensByExpert) {
  AmaxObserver observer(plan_, 0);
  observer.on_routing(4, std::vector<int64_t>{1, 0, 5});
  observer.on_routing(4, std::vector<int64_t>{2, 0, 1});
  EXPECT_EQ(observer.layer(4).expert_tokens, (std::vector<int64_t>{3, 0, 6}));
  EXPECT_TRUE(observer.layer(3).expert_tokens.empty());
}

TEST_F(ObserverTest, StatisticsVisitAShareOfTheExperts) {
  EXPECT_EQ(AmaxObserver(plan_, 0).statistics_top_k(6, 128), 6);
  EXPECT_EQ(AmaxObserver(plan_, 0.01).statistics_top_k(6, 128), 6);
  EXPECT_EQ(AmaxObserver(plan_, 0.25).statistics_top_k(6, 128), 32);
  EXPECT_EQ(AmaxObserver(plan_, 0.3).statistics_top_k(6, 128), 38);
  EXPECT_EQ(AmaxObserver(plan_, 1).statistics_top_k(6, 128), 128);
  EXPECT_EQ(AmaxObserver(plan_, 2).statistics_top_k(6, 128), 128);
  EXPECT_EQ(AmaxObserver(plan_, 0.5).statistics_top_k(1, 5), 2);  // 2.5, halves to even
}

}  // namespace
}  // namespace vernier::calib
