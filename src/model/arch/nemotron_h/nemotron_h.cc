#include "model/arch/nemotron_h/nemotron_h.h"

#include <fmt/format.h>

#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "kernels/rms_norm_backward.h"
#include "kernels/rms_norm_encode.h"
#include "model/arch/nemotron_h/config.h"
#include "model/arch/nemotron_h/names.h"
#include "model/arch/nemotron_h/partition.h"
#include "model/arch/nemotron_h/scratch.h"
#include "model/layer_loader.h"
#include "model/layers/attention.h"
#include "model/layers/mamba2.h"
#include "model/layers/mlp.h"
#include "model/layers/moe.h"
#include "model/layers/residual_layer.h"

namespace vernier::model::nemotron_h {

namespace {

std::unique_ptr<Mixer> load_mamba(const Config& config, const LayerLoader& loader) {
  const MambaConfig& mamba = config.mamba;
  const Mamba2::Shape shape{.ssm = {.n_heads = mamba.n_heads,
                                    .head_dim = mamba.head_dim,
                                    .n_groups = mamba.n_groups,
                                    .state_dim = mamba.state_dim,
                                    .chunk = mamba.chunk},
                            .conv_taps = mamba.conv_taps,
                            .dt_low = mamba.dt_low,
                            .dt_high = mamba.dt_high,
                            .norm_eps = config.norm_eps};
  std::vector<float> a = loader.host_values("mixer.A_log");
  for (float& value : a) value = -std::exp(value);
  return std::make_unique<Mamba2>(
      shape,
      Mamba2::Weights{
          .name = loader.prefix() + "mixer",
          .in_proj = loader.linear("mixer.in_proj"),
          .conv_weight = loader.matrix("mixer.conv1d.weight"),
          .conv_bias = mamba.has_conv_bias ? loader.values("mixer.conv1d.bias") : Vector<float>(),
          .a = Vector<float>(std::span<const float>(a), loader.device()),
          .d = loader.values("mixer.D"),
          .dt_bias = loader.values("mixer.dt_bias"),
          .norm = loader.values("mixer.norm.weight"),
          .out_proj = loader.linear("mixer.out_proj"),
      },
      loader.device());
}

std::unique_ptr<Mixer> load_attention(const Config& config, const LayerLoader& loader,
                                      const AttentionSite& site, const WeightSource& weights,
                                      const comm::Ranks& ranks) {
  const AttentionConfig& attention = config.attention;
  const KvRule rule = weights.kv_rule(site);
  if (rule.format != nullptr && attention.head_dim % rule.format->k_multiple != 0) {
    throw Error(
        ErrorKind::kUnsupported,
        fmt::format("{}: keys and values in {} need a head_dim that is a multiple of {}, "
                    "found {}",
                    site.name, rule.format->name, rule.format->k_multiple, attention.head_dim));
  }
  const kernels::AttentionShape shape{.n_heads = attention.n_heads,
                                      .n_kv_heads = attention.n_kv_heads,
                                      .head_dim = attention.head_dim};
  return std::make_unique<Attention>(shape, site,
                                     Attention::Weights{
                                         .q_proj = loader.linear("mixer.q_proj"),
                                         .k_proj = loader.linear("mixer.k_proj"),
                                         .v_proj = loader.linear("mixer.v_proj"),
                                         .o_proj = loader.linear("mixer.o_proj"),
                                         .kv_rule = rule,
                                     },
                                     ranks.tensor(), loader.device());
}

SquaredReluMlp load_mlp(const LayerLoader& loader, const std::string& name) {
  return {.up = loader.linear(name + ".up_proj"), .down = loader.linear(name + ".down_proj")};
}

std::unique_ptr<Mixer> load_moe(const Config& config, const LayerLoader& loader, int layer,
                                const comm::Ranks& ranks) {
  const MoeConfig& moe = config.moe;
  const kernels::RouterShape shape{.n_experts = moe.n_experts,
                                   .top_k = moe.top_k,
                                   .n_groups = moe.n_groups,
                                   .top_groups = moe.top_groups,
                                   .normalize = moe.normalizes_weights,
                                   .scale = moe.scale};
  std::vector<SquaredReluMlp> experts;
  const comm::Range here = comm::part_of(moe.n_experts, ranks.place().expert);
  for (int64_t expert = here.begin; expert < here.end; ++expert) {
    experts.push_back(load_mlp(loader, fmt::format("mixer.experts.{}", expert)));
  }
  std::optional<Moe::Latent> latent;
  if (moe.latent_size > 0) {
    latent = Moe::Latent{.fc1 = loader.linear("mixer.fc1_latent_proj"),
                         .fc2 = loader.linear("mixer.fc2_latent_proj")};
  }
  return std::make_unique<Moe>(
      layer, shape,
      Moe::Weights{.name = loader.prefix() + "mixer",
                   .gate = loader.matrix("mixer.gate.weight"),
                   .correction_bias = loader.values("mixer.gate.e_score_correction_bias"),
                   .experts = std::move(experts),
                   .shared = load_mlp(loader, "mixer.shared_experts"),
                   .latent = std::move(latent)},
      ranks, loader.device());
}

class NemotronH : public Model {
 public:
  NemotronH(const Config& config, ModuleTree tree, const comm::Ranks* ranks)
      : ranks_(ranks == nullptr ? &alone_ : ranks),
        whole_(config),
        config_(share_of(config, ranks_->place().tensor)),
        tree_(std::move(tree)),
        embedding_(tree_.find("backbone.embeddings")),
        head_(tree_.find("lm_head")) {}

  const ModuleTree& tree() const override { return tree_; }
  const comm::Ranks& ranks() const override { return *ranks_; }
  void check_layout(const comm::Layout& layout) const override {
    nemotron_h::check_layout(whole_, tree_, layout);
  }
  int64_t hidden_size() const override { return config_.hidden_size; }
  int64_t vocab_size() const override { return config_.vocab_size; }
  const Module& embedding() const override { return *embedding_; }
  const Module& head() const override { return *head_; }

  int64_t active_weights() const override {
    int64_t n_active = 0;
    int64_t n_routed = 0;
    for (const Module& module : tree_.modules()) {
      if (module.kind != ModuleKind::kLinear) continue;
      (module.expert < 0 ? n_active : n_routed) += module.n * module.k;
    }
    if (n_routed > 0) n_active += n_routed / config_.moe.n_experts * config_.moe.top_k;
    return n_active;
  }

  int64_t scratch_bytes(int layer, int64_t n_tokens, const Device* device) const override {
    return nemotron_h::scratch_bytes(config_, layer, n_tokens, device);
  }

  int64_t state_bytes(int layer, int64_t n_tokens, const Device* device) const override {
    const MambaConfig& mamba = config_.mamba;
    constexpr auto kFloatBytes = static_cast<int64_t>(sizeof(float));
    const int64_t activation_bytes = dtype_info(compute_dtype(device)).bits / 8;
    switch (config_.layers[static_cast<size_t>(layer)]) {
      case LayerKind::kMamba:
        return kFloatBytes * mamba.inner() * mamba.state_dim +
               activation_bytes * (mamba.conv_taps - 1) * mamba.conv_channels();
      case LayerKind::kAttention:
        return activation_bytes * 2 * n_tokens * config_.attention.kv_width();
      case LayerKind::kMlp:
      case LayerKind::kMoe:
        return 0;
    }
    VERNIER_CHECK(false);
  }

  std::unique_ptr<Layer> load_layer(int layer, const WeightSource& weights) const override {
    VERNIER_CHECK(layer >= 0 && layer < static_cast<int>(config_.layers.size()));
    const std::string name = fmt::format("backbone.layers.{}", layer);
    const LayerLoader loader(tree_, weights, name + ".");
    return std::make_unique<ResidualLayer>(name, loader.values("norm.weight"), config_.norm_eps,
                                           load_mixer(layer, loader, weights), *ranks_,
                                           piece_tokens(weights.device()));
  }

  void final_norm(ConstAnyMatrixView hidden, const WeightSource& weights,
                  const kernels::InputRule& rule, AnyMatrixView normed) const override {
    const LayerLoader loader(tree_, weights, "backbone.");
    kernels::rms_norm_encode(hidden, loader.values("norm_f.weight"), config_.norm_eps, rule,
                             normed);
  }

  void final_norm_backward(ConstAnyMatrixView hidden, const WeightSource& weights,
                           ConstAnyMatrixView g_normed, AnyMatrixView g_hidden,
                           GradientHook* hook) const override {
    const LayerLoader loader(tree_, weights, "backbone.");
    const VectorView<float> g_weight =
        hook == nullptr ? VectorView<float>() : hook->gradient_of("backbone.norm_f.weight");
    kernels::rms_norm_backward(hidden, loader.values("norm_f.weight"), config_.norm_eps, g_normed,
                               g_hidden, g_weight);
  }

 private:
  std::unique_ptr<Mixer> load_mixer(int layer, const LayerLoader& loader,
                                    const WeightSource& weights) const {
    switch (config_.layers[static_cast<size_t>(layer)]) {
      case LayerKind::kMamba:
        return load_mamba(config_, loader);
      case LayerKind::kAttention:
        return load_attention(config_, loader, attention_site(layer), weights, *ranks_);
      case LayerKind::kMlp:
        return std::make_unique<Mlp>(load_mlp(loader, "mixer"));
      case LayerKind::kMoe:
        return load_moe(config_, loader, layer, *ranks_);
    }
    VERNIER_CHECK(false);
  }

  const AttentionSite& attention_site(int layer) const {
    for (const AttentionSite& site : tree_.attentions()) {
      if (site.layer == layer) return site;
    }
    VERNIER_CHECK(false);
  }

  comm::Ranks alone_;
  const comm::Ranks* ranks_;
  Config whole_;
  Config config_;  // of this rank's share
  ModuleTree tree_;
  const Module* embedding_;
  const Module* head_;
};

}  // namespace

std::unique_ptr<Model> open(const io::Json& config, std::string_view origin,
                            const comm::Ranks* ranks) {
  const Config parsed = parse_config(config, origin);
  ModuleTree tree = build_module_tree(parsed);
  if (ranks != nullptr) check_layout(parsed, tree, ranks->layout());
  return std::make_unique<NemotronH>(parsed, std::move(tree), ranks);
}

}  // namespace vernier::model::nemotron_h
