#include "runtime/layout_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fmt/format.h>
#include <memory>

#include "base/testing.h"
#include "comm/unconnected.h"
#include "io/json.h"
#include "model/test_network.h"
#include "runtime/layout_plan_search.h"
#include "runtime/planned_device.h"

namespace vernier::runtime {
namespace {

using comm::Layout;
using ::testing::HasSubstr;

constexpr int64_t kPlenty = int64_t{1} << 50;

// A network that only its config.json is known of, as one tensor rank of several has it.
class Share {
 public:
  Share(const io::Json& config, int64_t tp)
      : ranks_(comm::unconnected(Layout(tp, tp, 1, 1), tp - 1)),
        model_(model::open_model(config, "config.json", &ranks_)) {}

  const model::Model& model() const { return *model_; }

 private:
  comm::Ranks ranks_;
  std::unique_ptr<model::Model> model_;
};

io::Json latent() { return io::read_json(model::golden_dir() / "latent/checkpoint/config.json"); }

io::Json super() {
  return io::parse_json(R"({
    "model_type": "nemotron_h", "hybrid_override_pattern":
      "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME",
    "vocab_size": 131072, "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 2,
    "head_dim": 128, "mamba_num_heads": 128, "mamba_head_dim": 64, "n_groups": 8,
    "ssm_state_size": 128, "conv_kernel": 4, "n_routed_experts": 512, "num_experts_per_tok": 22,
    "moe_intermediate_size": 2688, "moe_latent_size": 1024,
    "moe_shared_expert_intermediate_size": 5376, "intermediate_size": 2688
  })",
                        "config.json");
}

// Round numbers, so that seconds can be worked by hand.
MachineRates round_rates() {
  MachineRates rates;
  rates.forward_flop_per_s = 1e9;
  rates.load_bytes_per_s = 1e9;
  rates.encode_bytes_per_s = 1e6;
  rates.write_bytes_per_s = 1e6;
  rates.reserve_bytes_per_s = 1e7;
  rates.sum_bytes_per_s = 1e7;
  rates.exchange_bytes_per_s = 1e7;
  rates.between_machines_bytes_per_s = 1e6;
  rates.collective_s = 1e-9;
  rates.start_s = 1;
  return rates;
}

// Worked by hand for the latent model: hidden size 64; a Mamba layer, MoE, attention, MoE, MLP,
// Mamba. 8 windows of 128 tokens.
class LatentLayout : public ::testing::Test {
 protected:
  LayoutPlan plan(const Layout& layout, StageOrder order = StageOrder::kLayerByLayer) const {
    const Share share(latent(), layout.tp());
    return LayoutPlanner(share.model(), job_, rates_).plan(layout, order);
  }

  LayoutJob job_{
      .size = {.n_windows = 8, .window_tokens = 128}, .device_bytes = kPlenty, .output_bits = 4};
  MachineRates rates_ = round_rates();

  // Weights of the linears of a layer.
  static constexpr int64_t kMamba = 324 * 64 + 64 * 128;
  static constexpr int64_t kAttention = (128 + 64 + 64 + 128) * 64;
  static constexpr int64_t kMlp = 2 * 160 * 64;
  static constexpr int64_t kExpert = 2 * 48 * 32;
  static constexpr int64_t kShared = 2 * 96 * 64;
  static constexpr int64_t kLatent = 2 * 32 * 64;
  static constexpr int64_t kEmbedding = 384 * 64;
  // Those that a token visits.
  static constexpr int64_t kMoe = kShared + kLatent + 3 * kExpert;
  static constexpr int64_t kActive = 2 * kMamba + kAttention + kMlp + 2 * kMoe;
};

TEST_F(LatentLayout, OneRankTakesWhatItsMemoryPlanSays) {
  const Share share(latent(), 1);
  PlannedDevice device;
  job_.size = {.n_windows = 512, .window_tokens = 512};
  const MemoryLimits plenty{.host_bytes = kPlenty, .device = &device, .device_bytes = kPlenty};
  const int64_t all_bytes = plan_memory(share.model(), job_.size, plenty).device.total_bytes;
  for (const int64_t limit : {kPlenty, all_bytes, all_bytes - 1}) {
    MemoryLimits limits = plenty;
    limits.device_bytes = job_.device_bytes = limit;
    const MemoryPlan wanted = plan_memory(share.model(), job_.size, limits);
    const LayoutPlan found = plan(Layout());
    EXPECT_EQ(found.memory.weight_bytes, wanted.device.weight_bytes);
    EXPECT_EQ(found.memory.hidden_bytes, wanted.device.hidden_bytes);
    EXPECT_EQ(found.memory.state_bytes, wanted.device.state_bytes);
    EXPECT_EQ(found.memory.scratch_bytes, wanted.device.scratch_bytes);
    EXPECT_EQ(found.memory.total_bytes, wanted.device.total_bytes);
    EXPECT_EQ(found.placement, wanted.placement);
    EXPECT_TRUE(found.fits);
  }
  job_.device_bytes = 1;
  EXPECT_FALSE(plan(Layout()).fits);
}

TEST_F(LatentLayout, OneRankComputesPacksAndWritesAlone) {
  const LayoutPlan found = plan(Layout());
  EXPECT_EQ(found.wire.total(), 0);
  EXPECT_EQ(found.loaded_bytes, 2 * (kEmbedding + 2 * kMamba + kAttention + kMlp +
                                     2 * (kShared + kLatent + 8 * kExpert)));
  EXPECT_NEAR(found.seconds.compute, 2.0 * 1024 * kActive / 1e9, 1e-9);
  // Only the embedding and the first layer are waited for.
  EXPECT_NEAR(found.seconds.wait, 2.0 * (kEmbedding + kMamba) / 1e9, 1e-9);
  // Every tensor of the network: linears, norms, convolutions, head vectors, routers.
  const int64_t n_all = 2 * kEmbedding + 2 * kMamba + kAttention + kMlp +
                        2 * (kShared + kLatent + 8 * kExpert + 8 * 64 + 8) + 7 * 64 +
                        2 * (192 * 4 + 192 + 3 * 4 + 128);
  EXPECT_NEAR(found.seconds.encode, 2.0 * static_cast<double>(n_all) / 1e6, 1e-9);
  EXPECT_NEAR(found.seconds.write, 0.5 * static_cast<double>(n_all) / 1e6, 1e-9);
  EXPECT_NEAR(found.seconds.start, 1 + 0.5 * static_cast<double>(n_all) / 1e7, 1e-9);
  EXPECT_EQ(found.written_bytes, n_all / 2);
}

// What a layer's load takes longer than the computation before it.
TEST_F(LatentLayout, SlowLoadsAreWaitedFor) {
  rates_.load_bytes_per_s = 1;
  const LayoutPlan found = plan(Layout());
  const double last_compute = 2.0 * 1024 * kMamba / 1e9;
  EXPECT_NEAR(found.seconds.wait,
              static_cast<double>(found.loaded_bytes) - (found.seconds.compute - last_compute),
              1e-6);
}

TEST_F(LatentLayout, TensorRanksSumAfterEveryLayer) {
  const LayoutPlan found = plan(Layout(2, 2, 1, 1));
  // Six layers and the embedding, 2 (tp - 1) / tp = 1.
  EXPECT_EQ(found.wire.tensor_sums, 7 * 1024 * 64 * 4);
  EXPECT_EQ(found.wire.expert_exchange, 0);
  // A piece a layer; an embedding a window.
  EXPECT_NEAR(found.seconds.tensor_sums, 7 * 1024 * 64 * 4 / 1e7 + (6 + 8) * 1e-9, 1e-12);
  EXPECT_NEAR(found.seconds.compute, plan(Layout()).seconds.compute / 2, 1e-9);
  // To run: half of what is cut, the latent projections and all experts whole. To pack: of every
  // layer half of all tensors but the experts, or the largest of them.
  const int64_t share = kEmbedding / 2 + kMamba + kAttention / 2 + kMlp / 2 +
                        2 * (kShared / 2 + kLatent + 8 * kExpert);
  const int64_t in_proj = 324 * 64;
  const int64_t packed = 2 * in_proj + (kAttention + 64) / 2 + (kMlp + 64) / 2 +
                         2 * ((kShared + kLatent + 8 * 64 + 8 + 64) / 2);
  EXPECT_EQ(found.loaded_bytes, 2 * (share + packed));
  // Mamba's share and that of the MoE layer on its way, while in_proj is packed.
  EXPECT_EQ(found.memory.weight_bytes,
            2 * (kMamba / 2 + kShared / 2 + kLatent + 8 * kExpert + in_proj));
}

TEST_F(LatentLayout, ExpertRanksExchangePairs) {
  const LayoutPlan found = plan(Layout(4, 1, 1, 4));
  // Two layers: of 256 tokens three pairs each, 32 values of BF16 there and back; 3 in 4 leave.
  EXPECT_EQ(found.wire.expert_exchange, 2 * 256 * 3 * (32 + 32) * 2 * 3 / 4);
  EXPECT_EQ(found.loaded_bytes, 2 * (kEmbedding + 2 * kMamba + kAttention + kMlp +
                                     2 * (kShared + kLatent + 2 * kExpert)));
  EXPECT_NEAR(found.seconds.compute, plan(Layout()).seconds.compute / 4, 1e-9);
  // The counts, there, back, and two calls that agree on how often.
  EXPECT_NEAR(found.seconds.expert_exchange, 147456 / 1e7 + 2 * 5e-9, 1e-12);

  // Two ranks a machine: of four shares one stays, one goes to the neighbour, two go out.
  rates_.devices_per_machine = 2;
  EXPECT_NEAR(plan(Layout(4, 1, 1, 4)).seconds.expert_exchange, 98304 * 1.0 / 1e6 + 2 * 5e-9,
              1e-12);
}

TEST_F(LatentLayout, StagesThatStreamRunOneAfterAnother) {
  const LayoutPlan one = plan(Layout());
  const LayoutPlan two = plan(Layout(2, 1, 2, 1));
  EXPECT_NEAR(two.seconds.compute, one.seconds.compute, 1e-9);
  EXPECT_NEAR(two.seconds.encode, one.seconds.encode, 1e-9);
  EXPECT_NEAR(two.seconds.write, one.seconds.write, 1e-9);
  EXPECT_EQ(two.wire.stage_to_stage, 1024 * 64 * 4);
  EXPECT_NEAR(two.seconds.stage_to_stage, 1024 * 64 * 4 / 1e7 + 1e-9, 1e-12);
  EXPECT_EQ(two.seconds.fill, 0);
}

TEST_F(LatentLayout, StagesThatStayWorkAtOnce) {
  job_.size = {.n_windows = 8, .window_tokens = 16384};  // a batch each
  const LayoutPlan one = plan(Layout());
  const LayoutPlan two = plan(Layout(2, 1, 2, 1), StageOrder::kBatchByBatch);
  // Stages of Mamba, MoE and attention, and of MoE, MLP and Mamba; receiving makes the second
  // slower.
  EXPECT_NEAR(two.seconds.compute, 2.0 * 8 * 16384 * (kMoe + kMlp + kMamba) / 1e9, 1e-9);
  EXPECT_LT(two.seconds.compute, one.seconds.compute / 2);
  EXPECT_NEAR(two.seconds.fill, (two.seconds.compute + two.seconds.stage_to_stage) / 8, 1e-9);
  EXPECT_LT(two.seconds.write, one.seconds.write + 1e-9);
  // All of a stage's linears, at least half of the network's.
  const int64_t half = 2 * kMamba + kAttention + kMlp + 2 * (kShared + kLatent + 8 * kExpert);
  EXPECT_GE(two.memory.weight_bytes, half);
}

TEST_F(LatentLayout, WithoutAForwardPassOnlyPackingIsLeft) {
  job_.size = {};
  const LayoutPlan found = plan(Layout(2, 2, 1, 1));
  EXPECT_EQ(found.wire.total(), 0);
  EXPECT_EQ(found.seconds.compute + found.seconds.wait, 0);
  EXPECT_GT(found.seconds.encode, 0);
}

TEST_F(LatentLayout, SearchListsWhatTheNetworkAccepts) {
  const std::unique_ptr<model::Model> whole = model::open_model(latent(), "config.json");
  const std::vector<LayoutPlan> plans = plan_layouts(latent(), "config.json", 8, job_, rates_);
  // tp 1 and 2, not 4 (2 groups); pp 1, 2, 4 (6 layers); every ep that divides what is left.
  EXPECT_EQ(plans.size(), (4u + 3u + 2u) + (4u + 3u + 2u));
  for (const LayoutPlan& plan : plans) {
    EXPECT_NO_THROW(whole->check_layout(plan.layout)) << plan.layout.describe();
    EXPECT_EQ(plan.layout.world(), 8);
  }
  EXPECT_TRUE(std::ranges::is_sorted(plans, {},
                                     [](const LayoutPlan& plan) { return plan.seconds.total(); }));
  // Replicas without a window.
  job_.size.n_windows = 1;
  for (const LayoutPlan& plan : plan_layouts(latent(), "config.json", 8, job_, rates_)) {
    EXPECT_EQ(plan.layout.dp(), 1);
  }
}

class SuperLayout : public ::testing::Test {
 protected:
  LayoutPlan plan(const Layout& layout) const {
    const Share share(super(), layout.tp());
    return LayoutPlanner(share.model(), job_, rates_).plan(layout, StageOrder::kLayerByLayer);
  }

  const LayoutJob job_{.size = {.n_windows = 512, .window_tokens = 4096},
                       .device_bytes = 72'000'000'000};
  const MachineRates rates_;
};

// docs/results.md works 247 s out of what 22 of the layers took.
TEST_F(SuperLayout, TakesOnOneDeviceWhatWasMeasured) {
  const LayoutPlan found = plan(Layout());
  EXPECT_NEAR(found.seconds.total(), 247, 12);
  EXPECT_TRUE(found.fits);
}

TEST_F(SuperLayout, TensorSumsGrowAsTheirFormula) {
  for (const int64_t tp : {2, 4, 8}) {
    const LayoutPlan found = plan(Layout(tp, tp, 1, 1));
    const int64_t one_sum = 2 * (tp - 1) * int64_t{512 * 4096} * 4096 * 4 / tp;
    EXPECT_EQ(found.wire.tensor_sums, (88 + 1) * one_sum);
  }
}

TEST_F(SuperLayout, MoreReplicasComputeForLess) {
  double before = 1e9;
  for (const int64_t dp : {1, 2, 4, 8, 16}) {
    const LayoutPlan found = plan(Layout(dp, 1, 1, dp));
    EXPECT_LT(found.seconds.compute, before);
    EXPECT_LE(found.memory.total_bytes, job_.device_bytes);
    before = found.seconds.compute;
  }
}

TEST_F(SuperLayout, SearchProposesSomethingValid) {
  const std::vector<LayoutPlan> plans = plan_layouts(super(), "config.json", 16, job_, rates_);
  ASSERT_FALSE(plans.empty());
  const LayoutPlan& best = plans.front();
  EXPECT_TRUE(best.fits);
  EXPECT_EQ(best.layout.world(), 16);
  EXPECT_NO_THROW(model::open_model(super(), "config.json")->check_layout(best.layout));
  EXPECT_LT(best.seconds.total(), 247.0 / 4);
}

TEST(MachineRatesTest, AreReplacedByName) {
  const MachineRates rates =
      read_rates(io::parse_json(R"({"sum_bytes_per_s": 2e11, "start_s": 1})", "r"), "r.json");
  EXPECT_EQ(rates.sum_bytes_per_s, 2e11);
  EXPECT_EQ(rates.start_s, 1);
  EXPECT_EQ(rates.load_bytes_per_s, MachineRates().load_bytes_per_s);
}

TEST(MachineRatesTest, RefuseWhatIsNoRate) {
  const auto message = [](const char* text) {
    return error_of([&] { read_rates(io::parse_json(text, "r"), "r.json"); }).message();
  };
  EXPECT_THAT(message(R"({"speed": 1})"),
              HasSubstr("r.json: speed is no rate, expected one of: forward_flop_per_s, load"));
  for (const char* value : {"0", "-1", "\"fast\"", "null", "Infinity"}) {
    EXPECT_EQ(message(fmt::format(R"({{"start_s": {}}})", value).c_str()).substr(0, 18),
              "r.json: start_s is");
  }
  EXPECT_THAT(message("[1]"), HasSubstr("r.json: expected an object of rates by name: "));
}

}  // namespace
}  // namespace vernier::runtime
