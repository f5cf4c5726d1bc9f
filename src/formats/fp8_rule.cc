#include "formats/fp8_rule.h"

#include <algorithm>

#include "formats/fp8.h"

namespace vernier::formats {
namespace {

// The candidate amax of least loss; of equal ones the first. Candidates are tried in FP32, but the
// winner is kept in the weight's own type: Model Optimizer stores it where the weight's amax was.
float search_amax(const TensorView& weight, float amax, const ScaleRule& rule,
                  Fp8CandidateLosses* candidate_losses) {
  std::vector<float> candidates = multiplier_grid(rule);
  for (float& candidate : candidates) candidate *= amax;
  const std::vector<double> losses = candidate_losses(weight, candidates);
  const auto least = std::min_element(losses.begin(), losses.end());
  return round_to_bf16(candidates[static_cast<size_t>(least - losses.begin())]);
}

}  // namespace

// The sweep of block scales does not apply here: such a rule keeps amax.
float fp8_scale(const TensorView& weight, const EncodeOptions& options,
                Fp8CandidateLosses* candidate_losses) {
  float amax = options.global_amax ? *options.global_amax : scan_amax(weight).amax;
  if (options.rule.method == ScaleMethod::kMultipliers) {
    amax = search_amax(weight, amax, options.rule, candidate_losses);
  }
  return scale_from_amax(storable_amax(amax, kE4m3Max), kE4m3Max, options.arithmetic);
}

}  // namespace vernier::formats
