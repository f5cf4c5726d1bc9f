#include "model/arch/nemotron_h/names.h"

#include <fmt/format.h>

#include <span>
#include <string>
#include <utility>

namespace vernier::model::nemotron_h {

Cut mlp_cut(CutKind kind, int64_t width) {
  constexpr int64_t kBlock = 16;
  return {.kind = kind, .segments = {width}, .unit = width % kBlock == 0 ? kBlock : 1};
}

namespace {

// A row is one tensor of one module; rows of the same module follow one another, the weight first.
// Module names are relative to the layer; {e} stands for a routed expert's number.
struct Row {
  std::string_view module;
  std::string_view tensor;  // after the module's name
  ModuleKind kind;
  Shape (*shape)(const Config& config, size_t layer);
  Cut (*cut)(const Config& config, size_t layer) = nullptr;  // null: every rank has all of it
  std::string_view fusion_group = {};
  bool (*is_present)(const Config& config) = nullptr;  // null: always
};

bool has_conv_bias(const Config& c) { return c.mamba.has_conv_bias; }
bool is_latent(const Config& c) { return c.moe.latent_size > 0; }

Shape hidden(const Config& c, size_t) { return {c.hidden_size}; }
Shape vocabulary(const Config& c, size_t) { return {c.vocab_size, c.hidden_size}; }
Shape mamba_heads(const Config& c, size_t) { return {c.mamba.n_heads}; }
Shape kv(const Config& c, size_t) { return {c.attention.kv_width(), c.hidden_size}; }

Cut by_vocabulary(const Config& c, size_t) {
  return {.kind = CutKind::kRows, .segments = {c.vocab_size}};
}
Cut by_mamba_heads(const Config& c, size_t) {
  return {.kind = CutKind::kRows, .segments = {c.mamba.n_heads}};
}
// Heads, and with them whole groups.
Cut by_inner(const Config& c, size_t) {
  return {.kind = CutKind::kRows, .segments = {c.mamba.inner()}, .unit = c.mamba.head_dim};
}
Cut inner_inputs(const Config& c, size_t layer) {
  Cut cut = by_inner(c, layer);
  cut.kind = CutKind::kColumns;
  return cut;
}
Cut by_conv_channels(const Config& c, size_t) {
  const int64_t bc_width = c.mamba.n_groups * c.mamba.state_dim;
  return {.kind = CutKind::kRows, .segments = {c.mamba.inner(), bc_width, bc_width}};
}
Cut by_in_proj_rows(const Config& c, size_t) {
  const int64_t bc_width = c.mamba.n_groups * c.mamba.state_dim;
  return {.kind = CutKind::kRows,
          .segments = {c.mamba.inner(), c.mamba.inner(), bc_width, bc_width, c.mamba.n_heads}};
}
Cut by_query_heads(const Config& c, size_t) {
  return {.kind = CutKind::kRows,
          .segments = {c.attention.query_width()},
          .unit = c.attention.head_dim};
}
Cut query_head_inputs(const Config& c, size_t layer) {
  Cut cut = by_query_heads(c, layer);
  cut.kind = CutKind::kColumns;
  return cut;
}
Cut by_kv_heads(const Config& c, size_t) {
  return {.kind = CutKind::kRows,
          .segments = {c.attention.kv_width()},
          .unit = c.attention.head_dim,
          .repeats = true};
}
Cut mlp_rows(const Config& c, size_t layer) { return mlp_cut(CutKind::kRows, c.mlp_widths[layer]); }
Cut mlp_inputs(const Config& c, size_t layer) {
  return mlp_cut(CutKind::kColumns, c.mlp_widths[layer]);
}
Cut shared_rows(const Config& c, size_t) { return mlp_cut(CutKind::kRows, c.moe.shared_width); }
Cut shared_inputs(const Config& c, size_t) {
  return mlp_cut(CutKind::kColumns, c.moe.shared_width);
}
Cut of_expert(const Config&, size_t) { return {.kind = CutKind::kExpert}; }

constexpr std::string_view kLayerPrefix = "backbone.layers.";
constexpr std::string_view kExpertMark = "{e}";

constexpr Row kBeforeStack[] = {
    {"backbone.embeddings", "weight", ModuleKind::kEmbedding, vocabulary, by_vocabulary},
};

constexpr Row kAfterStack[] = {
    {"backbone.norm_f", "weight", ModuleKind::kNorm, hidden},
    {"lm_head", "weight", ModuleKind::kLinear, vocabulary, by_vocabulary},
};

constexpr Row kEveryLayer[] = {
    {"norm", "weight", ModuleKind::kNorm, hidden},
};

constexpr Row kMamba[] = {
    {"mixer.conv1d", "weight", ModuleKind::kConv1d,
     [](const Config& c, size_t) -> Shape {
       return {c.mamba.conv_channels(), 1, c.mamba.conv_taps};
     },
     by_conv_channels},
    {"mixer.conv1d",
     "bias",
     ModuleKind::kConv1d,
     [](const Config& c, size_t) -> Shape { return {c.mamba.conv_channels()}; },
     by_conv_channels,
     {},
     has_conv_bias},
    {"mixer.in_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.mamba.in_proj_rows(), c.hidden_size};
     },
     by_in_proj_rows},
    {"mixer", "A_log", ModuleKind::kParameter, mamba_heads, by_mamba_heads},
    {"mixer", "dt_bias", ModuleKind::kParameter, mamba_heads, by_mamba_heads},
    {"mixer", "D", ModuleKind::kParameter, mamba_heads, by_mamba_heads},
    {"mixer.norm", "weight", ModuleKind::kNorm,
     [](const Config& c, size_t) -> Shape { return {c.mamba.inner()}; }, by_inner},
    {"mixer.out_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.hidden_size, c.mamba.inner()};
     },
     inner_inputs},
};

constexpr Row kAttention[] = {
    {"mixer.q_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.attention.query_width(), c.hidden_size};
     },
     by_query_heads, "mixer.qkv_proj"},
    {"mixer.k_proj", "weight", ModuleKind::kLinear, kv, by_kv_heads, "mixer.qkv_proj"},
    {"mixer.v_proj", "weight", ModuleKind::kLinear, kv, by_kv_heads, "mixer.qkv_proj"},
    {"mixer.o_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.hidden_size, c.attention.query_width()};
     },
     query_head_inputs},
};

constexpr Row kMlp[] = {
    {"mixer.up_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t layer) -> Shape {
       return {c.mlp_widths[layer], c.hidden_size};
     },
     mlp_rows},
    {"mixer.down_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t layer) -> Shape {
       return {c.hidden_size, c.mlp_widths[layer]};
     },
     mlp_inputs},
};

constexpr Row kMoe[] = {
    {"mixer.gate", "weight", ModuleKind::kRouter,
     [](const Config& c, size_t) -> Shape {
       return {c.moe.n_experts, c.hidden_size};
     }},
    {"mixer.gate", "e_score_correction_bias", ModuleKind::kRouter,
     [](const Config& c, size_t) -> Shape { return {c.moe.n_experts}; }},
    {"mixer.experts.{e}.up_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.moe.width, c.expert_io()};
     },
     of_expert},
    {"mixer.experts.{e}.down_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.expert_io(), c.moe.width};
     },
     of_expert},
    {"mixer.shared_experts.up_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.moe.shared_width, c.hidden_size};
     },
     shared_rows},
    {"mixer.shared_experts.down_proj", "weight", ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.hidden_size, c.moe.shared_width};
     },
     shared_inputs},
    {"mixer.fc1_latent_proj",
     "weight",
     ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.moe.latent_size, c.hidden_size};
     },
     nullptr,
     {},
     is_latent},
    {"mixer.fc2_latent_proj",
     "weight",
     ModuleKind::kLinear,
     [](const Config& c, size_t) -> Shape {
       return {c.hidden_size, c.moe.latent_size};
     },
     nullptr,
     {},
     is_latent},
};

std::span<const Row> rows_of(LayerKind kind) {
  switch (kind) {
    case LayerKind::kMamba:
      return kMamba;
    case LayerKind::kAttention:
      return kAttention;
    case LayerKind::kMlp:
      return kMlp;
    case LayerKind::kMoe:
      return kMoe;
  }
  VERNIER_CHECK(false);
}

bool is_per_expert(const Row& row) {
  return row.module.find(kExpertMark) != std::string_view::npos;
}

// Writes rows out as modules. `layer` is -1 and `prefix` empty outside of the stack.
class TreeWriter {
 public:
  explicit TreeWriter(const Config& config) : config_(config) {}

  void enter_layer(int layer) {
    layer_ = layer;
    prefix_ = layer < 0 ? "" : fmt::format("{}{}.", kLayerPrefix, layer);
  }

  // A run of rows of routed experts is repeated for each expert: up and down of expert 0, then of
  // 1, ...
  void add(std::span<const Row> rows) {
    while (!rows.empty()) {
      size_t n_run = 0;
      while (n_run < rows.size() && is_per_expert(rows[n_run])) ++n_run;
      const int n_experts = n_run > 0 ? static_cast<int>(config_.moe.n_experts) : 0;
      for (int expert = 0; expert < n_experts; ++expert) {
        for (const Row& row : rows.first(n_run)) add_row(row, expert);
      }
      if (n_run == 0) add_row(rows[n_run++], -1);
      rows = rows.subspan(n_run);
    }
  }

  void add_attention_site() {
    attentions_.push_back({.name = prefix_ + "mixer",
                           .layer = layer_,
                           .k_proj = prefix_ + "mixer.k_proj",
                           .v_proj = prefix_ + "mixer.v_proj"});
  }

  ModuleTree finish() {
    return ModuleTree(config_.layers, std::move(modules_), std::move(attentions_));
  }

 private:
  void add_row(const Row& row, int expert) {
    if (row.is_present != nullptr && !row.is_present(config_)) return;
    const std::string name = full_name(row.module, expert < 0 ? "" : std::to_string(expert));
    const Shape shape = row.shape(config_, layer_index());
    if (modules_.empty() || modules_.back().name != name) add_module(row, name, expert, shape);
    const Cut cut = row.cut == nullptr ? Cut() : row.cut(config_, layer_index());
    modules_.back().tensors.push_back({fmt::format("{}.{}", name, row.tensor), shape, cut});
  }

  size_t layer_index() const { return static_cast<size_t>(layer_ < 0 ? 0 : layer_); }

  void add_module(const Row& row, const std::string& name, int expert, const Shape& shape) {
    const bool is_matrix = row.kind == ModuleKind::kLinear || row.kind == ModuleKind::kEmbedding;
    modules_.push_back({
        .name = name,
        .kind = row.kind,
        .layer = layer_,
        .expert = expert,
        .n = is_matrix ? shape[0] : 0,
        .k = is_matrix ? shape[1] : 0,
        .fusion_group = row.fusion_group.empty() ? "" : full_name(row.fusion_group, ""),
        .expert_group = expert < 0 ? "" : full_name(row.module, ""),
        .tensors = {},
    });
  }

  // "mixer.experts.{e}.up_proj" of expert "7", or of the group of all when `expert` is empty.
  std::string full_name(std::string_view name, const std::string& expert) const {
    std::string full = prefix_ + std::string(name);
    const size_t mark = full.find(kExpertMark);
    if (mark == std::string::npos) return full;
    const size_t n_replaced = kExpertMark.size() + (expert.empty() ? 1 : 0);  // and its dot
    return full.replace(mark, n_replaced, expert);
  }

  const Config& config_;
  int layer_ = -1;
  std::string prefix_;
  std::vector<Module> modules_;
  std::vector<AttentionSite> attentions_;
};

}  // namespace

ModuleTree build_module_tree(const Config& config) {
  TreeWriter writer(config);
  writer.add(kBeforeStack);
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    writer.enter_layer(static_cast<int>(layer));
    writer.add(kEveryLayer);
    writer.add(rows_of(config.layers[layer]));
    if (config.layers[layer] == LayerKind::kAttention) writer.add_attention_site();
  }
  writer.enter_layer(-1);
  writer.add(kAfterStack);
  return writer.finish();
}

}  // namespace vernier::model::nemotron_h
