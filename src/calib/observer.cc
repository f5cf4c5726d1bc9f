#include "calib/observer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "kernels/elementwise.h"

namespace vernier::calib {
namespace {

// `what` names them in the error: "the keys of ...".
float finite_amax(float amax, const std::string& what) {
  if (std::isfinite(amax)) return amax;
  throw Error(ErrorKind::kCorrupt,
              fmt::format("calibration: {} hold a value that is not finite, expected finite "
                          "activations on this text (check the checkpoint's weights)",
                          what));
}

}  // namespace

AmaxObserver::AmaxObserver(const quant::QuantPlan& plan, double all_experts_ratio)
    : plan_(plan), all_experts_ratio_(all_experts_ratio) {}

void AmaxObserver::on_input(const model::Module& linear, ConstAnyMatrixView x) {
  if (!plan_.site(linear).needs_input_amax()) return;
  Observed& seen = observed(linear.layer, x.device);
  const auto [slot, is_new] = seen.inputs.try_emplace(&linear, seen.n_slots);
  seen.n_slots += is_new;
  kernels::accumulate_amax(x, seen.amax.view().part(slot->second, 1));
}

void AmaxObserver::on_kv(const model::AttentionSite& site, ConstAnyMatrixView k,
                         ConstAnyMatrixView v) {
  if (plan_.kv_format() == nullptr || plan_.kv_is_cast()) return;
  Observed& seen = observed(site.layer, k.device);
  const auto [slot, is_new] = seen.kv.try_emplace(&site, seen.n_slots);
  seen.n_slots += is_new ? 2 : 0;
  kernels::accumulate_amax(k, seen.amax.view().part(slot->second, 1));
  kernels::accumulate_amax(v, seen.amax.view().part(slot->second + 1, 1));
}

// Room for all that a layer can show.
AmaxObserver::Observed& AmaxObserver::observed(int layer, Device* device) {
  Observed& seen = observed_[layer];
  if (seen.amax.size() > 0) return seen;
  int64_t n_slots = 0;
  for (const quant::SitePlan& site : plan_.sites) n_slots += site.module->layer == layer;
  for (const quant::KvPlan& kv : plan_.kv) n_slots += kv.site->layer == layer ? 2 : 0;
  seen.amax = Vector<float>(n_slots, device);
  fill_zero(seen.amax.view().data, device, n_slots * static_cast<int64_t>(sizeof(float)));
  return seen;
}

void AmaxObserver::on_routing(int layer, std::span<const int64_t> tokens_per_expert) {
  std::vector<int64_t>& counts = observed_[layer].expert_tokens;
  counts.resize(tokens_per_expert.size());
  for (size_t expert = 0; expert < counts.size(); ++expert) {
    counts[expert] += tokens_per_expert[expert];
  }
}

int64_t AmaxObserver::statistics_top_k(int64_t top_k, int64_t n_experts) {
  if (all_experts_ratio_ <= 0) return top_k;
  const int64_t widened = std::lrint(all_experts_ratio_ * static_cast<double>(n_experts));
  return std::clamp(widened, top_k, n_experts);
}

LayerStatistics AmaxObserver::layer(int layer) const {
  LayerStatistics statistics;
  const auto found = observed_.find(layer);
  if (found == observed_.end()) return statistics;
  const Observed& seen = found->second;
  const std::vector<float> amax = seen.amax.to_host();
  for (const auto& [module, slot] : seen.inputs) {
    statistics.input_amax[module] =
        finite_amax(amax[static_cast<size_t>(slot)], "the inputs of " + module->name);
  }
  for (const auto& [site, slot] : seen.kv) {
    const auto first = static_cast<size_t>(slot);
    statistics.kv_amax[site] = {finite_amax(amax[first], "the keys of " + site->name),
                                finite_amax(amax[first + 1], "the values of " + site->name)};
  }
  statistics.expert_tokens = seen.expert_tokens;
  return statistics;
}

}  // namespace vernier::calib
