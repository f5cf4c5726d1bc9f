#include "calib/quantize_report.h"

#include <gtest/gtest.h>

#include "io/json.h"

namespace vernier::calib {
namespace {

LayerReport example() {
  const ModuleReport plain{.name = "a",
                           .weight = "nvfp4",
                           .signal = 100.1,
                           .noise = 1.001,
                           .n_weights = 64,
                           .n_saturated = 1,
                           .n_flushed = 2};
  ModuleReport rounded = plain;
  rounded.name = "b";
  rounded.input = "nvfp4";
  rounded.input_amax = 0.1f;
  rounded.amax_source = AmaxSource::kOtherExperts;
  rounded.is_all_zero = true;
  return {3,
          {plain, rounded},
          {{"mixer", {1.5f, AmaxSource::kObserved}, {448, AmaxSource::kDefault}}},
          {5, 0, 7}};
}

// Every field, by way of text as in the journal.
TEST(QuantizeReport, LayersReadBack) {
  const io::Json json = to_json(example());
  const LayerReport read = layer_report_from_json(io::parse_json(io::dump_json(json), "test"));
  EXPECT_EQ(to_json(read), json);
  EXPECT_EQ(read.layer, 3);
  ASSERT_EQ(read.modules.size(), 2u);
  EXPECT_EQ(read.modules[0].n_saturated, 1);
  EXPECT_EQ(read.modules[0].noise, 1.001);
  EXPECT_EQ(read.modules[1].input_amax, 0.1f);
  EXPECT_EQ(read.modules[1].amax_source, AmaxSource::kOtherExperts);
  EXPECT_TRUE(read.modules[1].is_all_zero);
  ASSERT_EQ(read.kv.size(), 1u);
  EXPECT_EQ(read.kv[0].v.source, AmaxSource::kDefault);
  EXPECT_EQ(read.expert_tokens, (std::vector<int64_t>{5, 0, 7}));
}

TEST(QuantizeReport, AddsTheSignalToNoiseRatio) {
  const io::Json json = to_json(QuantizeReport{{example()}, {"mtp.norm.weight"}});
  EXPECT_NEAR(json["layers"][0]["modules"][0]["snr_db"].get<double>(), 20, 1e-12);
  EXPECT_EQ(json["layers"][0]["modules"][1]["amax_source"], "other experts");
  EXPECT_EQ(json["passed_through"][0], "mtp.norm.weight");
}

}  // namespace
}  // namespace vernier::calib
