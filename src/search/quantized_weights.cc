#include "search/quantized_weights.h"

#include <algorithm>

namespace vernier::search {
namespace {

const TensorView& codes_of(const model::LinearWeight& weight) {
  return weight.packed.plane(formats::PlaneRole::kCodes);
}

}  // namespace

float WeightAmaxes::of(const model::Module& module) {
  const auto [at, is_new] = known_.try_emplace(&module);
  if (is_new) {
    at->second = formats::scan_amax(codes_of(source_.linear(module))).amax;
    if (module.tensors.front().cut.is_cut()) tensor_.max({&at->second, 1});
  }
  return at->second;
}

QuantizedWeights::QuantizedWeights(const model::ModuleTree& tree, const model::WeightSource& source,
                                   const quant::QuantPlan& plan, const Statistics& statistics,
                                   WeightAmaxes& amaxes, formats::Arithmetic arithmetic)
    : tree_(tree), source_(source), plan_(plan), amaxes_(amaxes), arithmetic_(arithmetic) {
  for (const auto& [layer, seen] : statistics) {
    input_amax_.merge(calib::resolve_input_amax(plan, layer, seen, /*share_experts=*/true));
  }
}

model::LinearWeight QuantizedWeights::linear(const model::Module& module) const {
  if (module.kind != model::ModuleKind::kLinear) return source_.linear(module);
  const quant::SitePlan& site = plan_.site(module);
  if (!site.is_quantized()) return source_.linear(module);
  if (module.layer >= 0) return quantize(site);
  const auto [at, is_new] = outside_stack_.try_emplace(&module);
  if (is_new) at->second = quantize(site);
  return at->second;
}

model::LinearWeight QuantizedWeights::quantize(const quant::SitePlan& site) const {
  const model::Module& module = *site.module;
  const model::LinearWeight weight = source_.linear(module);
  const TensorView& source = codes_of(weight);
  const auto packed = std::make_shared<const formats::PackedTensor>(formats::encode_weight(
      *site.weight_format, source, {site.scale_rule, arithmetic_, weight_amax(site)}));
  kernels::InputRule rule;
  if (site.input_format != nullptr) {
    rule = {site.input_format,
            formats::scale_from_amax(input_amax_.at(&module).amax, site.input_format->input_divisor,
                                     arithmetic_)};
  }
  return {packed->view(), packed, rule};
}

// Fused linears in block-scaled formats share the largest of theirs.
float QuantizedWeights::weight_amax(const quant::SitePlan& site) const {
  float amax = amaxes_.of(*site.module);
  const std::string& group = site.module->fusion_group;
  if (group.empty() || !calib::shares_scales_when_fused(*site.weight_format)) return amax;
  for (const model::Module* member : tree_.modules_of(site.module->layer)) {
    if (member->fusion_group == group) amax = std::max(amax, amaxes_.of(*member));
  }
  return amax;
}

}  // namespace vernier::search
