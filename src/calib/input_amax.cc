#include "calib/input_amax.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "base/check.h"
#include "formats/e4m3.h"
#include "formats/scale_rule.h"

namespace vernier::calib {
namespace {

constexpr float kUnseenExpertAmax = 0.5f;

// By AmaxSource.
constexpr std::string_view kSourceNames[] = {"observed", "shared", "other experts", "default",
                                             "constant"};

// Which modules share an amax: the experts of a projection, or the members of a fused linear.
std::string sharing_group(const quant::SitePlan& site) {
  if (site.module->expert >= 0) return site.module->expert_group;
  if (!shares_scales_when_fused(*site.input_format)) return "";
  return site.module->fusion_group;
}

float observed_amax(const LayerStatistics& statistics, const model::Module* module) {
  const auto found = statistics.input_amax.find(module);
  return found == statistics.input_amax.end() ? 0.0f : found->second;
}

InputAmax resolve(const quant::SitePlan& site, float own, float group, bool share_experts) {
  if (site.constant_input_amax) return {*site.constant_input_amax, AmaxSource::kConstant};
  const bool is_expert = site.module->expert >= 0;
  if (is_expert && group == 0) return {kUnseenExpertAmax, AmaxSource::kDefault};

  const float divisor = site.input_format->input_divisor;
  if (is_expert && !share_experts) {
    const bool was_seen = own > 0;
    return {formats::storable_amax(was_seen ? own : group, divisor),
            was_seen ? AmaxSource::kObserved : AmaxSource::kOtherExperts};
  }
  const float amax = std::max(own, group);
  const AmaxSource source = amax == 0     ? AmaxSource::kDefault
                            : amax == own ? AmaxSource::kObserved
                                          : AmaxSource::kShared;
  return {formats::storable_amax(amax, divisor), source};
}

}  // namespace

std::string_view to_string(AmaxSource source) { return kSourceNames[static_cast<size_t>(source)]; }

AmaxSource amax_source_from_string(std::string_view name) {
  const auto* const found = std::find(std::begin(kSourceNames), std::end(kSourceNames), name);
  VERNIER_CHECK(found != std::end(kSourceNames));
  return static_cast<AmaxSource>(found - std::begin(kSourceNames));
}

std::map<const model::Module*, InputAmax> resolve_input_amax(const quant::QuantPlan& plan,
                                                             int layer,
                                                             const LayerStatistics& statistics,
                                                             bool share_experts) {
  std::map<std::string, float> group_amax;
  for (const quant::SitePlan& site : plan.sites) {
    if (site.module->layer != layer || !site.needs_input_amax()) continue;
    float& amax = group_amax[sharing_group(site)];
    amax = std::max(amax, observed_amax(statistics, site.module));
  }
  group_amax[""] = 0;  // modules that share with nobody

  std::map<const model::Module*, InputAmax> resolved;
  for (const quant::SitePlan& site : plan.sites) {
    if (site.module->layer != layer || site.input_format == nullptr) continue;
    resolved[site.module] = resolve(site, observed_amax(statistics, site.module),
                                    group_amax[sharing_group(site)], share_experts);
  }
  return resolved;
}

// Caches of every format have E4M3 scales of values up to 448 (docs/formats.md).
InputAmax resolve_kv_amax(float observed) {
  return {formats::storable_amax(observed, formats::kE4m3Max),
          observed == 0 ? AmaxSource::kDefault : AmaxSource::kObserved};
}

bool shares_scales_when_fused(const formats::Format& format) {
  return std::any_of(format.planes.begin(), format.planes.end(),
                     [](const formats::PlaneSpec& plane) {
                       return plane.role == formats::PlaneRole::kBlockScales;
                     });
}

}  // namespace vernier::calib
