#include "model/arch/nemotron_h/partition.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "model/arch/nemotron_h/names.h"
#include "model/cut.h"

namespace vernier::model::nemotron_h {
namespace {

void require(bool holds, const char* flag, int64_t found, const std::string& rule) {
  if (holds) return;
  throw Error(ErrorKind::kInvalidArgument, fmt::format("{} {}: expected {}", flag, found, rule));
}

bool has(const Config& config, LayerKind kind) {
  return std::ranges::find(config.layers, kind) != config.layers.end();
}

void check_tensor_ranks(const Config& config, int64_t tp) {
  const auto require_divisor = [&](int64_t n, const char* what) {
    require(n % tp == 0, "--tp", tp, fmt::format("a divisor of the {} {}", n, what));
  };
  if (has(config, LayerKind::kMamba)) {
    require_divisor(config.mamba.n_heads, "Mamba heads");
    require_divisor(config.mamba.n_groups, "Mamba groups");
  }
  if (has(config, LayerKind::kAttention)) {
    const int64_t n_kv = config.attention.n_kv_heads;
    require_divisor(config.attention.n_heads, "attention heads");
    require(n_kv % tp == 0 || tp % n_kv == 0, "--tp", tp,
            fmt::format("a divisor or a multiple of the {} KV heads", n_kv));
  }
}

// No rank's share of an MLP may be empty.
void check_mlp_widths(const ModuleTree& tree, int64_t tp) {
  for (const Module& module : tree.modules()) {
    const Cut& cut = module.tensors.front().cut;
    if (module.kind != ModuleKind::kLinear || !cut.is_cut()) continue;
    for (const int64_t length : cut.segments) {
      require(cut.repeats || length / cut.unit >= tp, "--tp", tp,
              fmt::format("at most {}, the blocks of {} that {} has", length / cut.unit, cut.unit,
                          module.name));
    }
  }
}

}  // namespace

void check_layout(const Config& config, const ModuleTree& tree, const comm::Layout& layout) {
  if (layout.tp() > 1) {
    check_tensor_ranks(config, layout.tp());
    check_mlp_widths(tree, layout.tp());
  }
  const auto n_layers = std::ssize(config.layers);
  require(layout.pp() <= n_layers, "--pp", layout.pp(),
          fmt::format("at most {}, the number of layers", n_layers));
  if (has(config, LayerKind::kMoe)) {
    require(config.moe.n_experts % layout.ep() == 0, "--ep", layout.ep(),
            fmt::format("a divisor of the {} routed experts", config.moe.n_experts));
  }
}

Config share_of(const Config& config, comm::Share tensor) {
  const int64_t tp = tensor.count;
  Config share = config;
  share.mamba.n_heads /= tp;
  share.mamba.n_groups /= tp;
  share.attention.n_heads /= tp;
  if (share.attention.n_kv_heads > 0) {
    share.attention.n_kv_heads = std::max<int64_t>(share.attention.n_kv_heads / tp, 1);
  }
  const auto mlp_share = [&](int64_t width) {
    return kept_size(mlp_cut(CutKind::kRows, width), tensor);
  };
  share.moe.shared_width = mlp_share(share.moe.shared_width);
  for (int64_t& width : share.mlp_widths) width = mlp_share(width);
  return share;
}

}  // namespace vernier::model::nemotron_h
