#include "formats/nvfp4_rule.h"

#include "base/error.h"

namespace vernier::formats {

void check_nvfp4_rule(const ScaleRule& rule) {
  const bool searches = rule.method != ScaleMethod::kMax;
  if ((searches || rule.four_over_six) && !rule.is_static) {
    throw Error(ErrorKind::kInvalidArgument,
                "the nvfp4 rule searches scales or is four-over-six with dynamic block scales; "
                "expected static ones");
  }
  if (rule.method == ScaleMethod::kFp8Sweep && rule.four_over_six) {
    throw Error(
        ErrorKind::kInvalidArgument,
        "the nvfp4 rule has the FP8 sweep and four-over-six; expected one of them, since the "
        "sweep's candidates are normalized to 448");
  }
}

Nvfp4Scaling nvfp4_scaling(const TensorView& weight, const EncodeOptions& options) {
  const float peak = nvfp4_peak(options.rule.four_over_six);
  const float amax = options.global_amax ? *options.global_amax : scan_amax(weight).amax;
  const float ga = storable_amax(amax, kE2m1Max * peak);
  return {.ga = ga,
          .peak = peak,
          .global_scale = nvfp4_global_scale(ga, peak, options.arithmetic),
          .is_static = options.rule.is_static,
          .arithmetic = options.arithmetic};
}

}  // namespace vernier::formats
