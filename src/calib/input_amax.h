// From what was observed to the input amax that is stored: sharing between experts and fused
// linears, and the fallback chain for inputs that no token reached. No scale is ever zero, and none
// is defaulted without being said.
#pragma once

#include <map>
#include <string_view>

#include "calib/observer.h"
#include "quant/plan.h"

namespace vernier::calib {

enum class AmaxSource {
  kObserved,      // this module's own input
  kShared,        // the largest among the modules that share one scale
  kOtherExperts,  // no token came by: the largest among the layer's other experts
  kDefault,       // nothing to go by: a scale that is safe, and reported
  kConstant,      // the recipe fixes it
};

std::string_view to_string(AmaxSource source);
// REQUIRES: a result of to_string.
AmaxSource amax_source_from_string(std::string_view name);

struct InputAmax {
  float amax = 0;  // > 0, and large enough for its scale to be a normal number
  AmaxSource source = AmaxSource::kObserved;
};

// The input amax of every module of `layer` whose input is quantized.
//   Routed experts: with `share_experts`, all experts of a layer and projection take the largest of
//   theirs; without, each keeps its own and an expert without tokens takes the others' largest.
//   Nothing at all: 0.5 (Model Optimizer's fallback). Fused linears (q, k, v) in block-scaled
//   formats: the largest of theirs. An input that was always zero: amax that makes the scale 1.
std::map<const model::Module*, InputAmax> resolve_input_amax(const quant::QuantPlan& plan,
                                                             int layer,
                                                             const LayerStatistics& statistics,
                                                             bool share_experts);

// The amax stored for an attention layer's keys or values. Always zero: the scale 1.
InputAmax resolve_kv_amax(float observed);

// True for formats whose fused linears must share their per-tensor scales: those with block scales.
// Servers requantize per-tensor formats to the largest scale instead.
bool shares_scales_when_fused(const formats::Format& format);

}  // namespace vernier::calib
