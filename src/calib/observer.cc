#include "calib/observer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"

namespace vernier::calib {
namespace {

// The largest |x|. Magnitudes of floats order as their bit patterns do, and NaN and infinity are
// the largest of all, so that one integer maximum finds both the amax and any non-finite value.
float max_abs(ConstMatrixView x) {
  uint32_t largest = 0;
#pragma omp parallel for reduction(max : largest) schedule(static)
  for (int64_t row = 0; row < x.rows; ++row) {
    uint32_t row_largest = 0;
    for (float value : x.row(row)) {
      row_largest = std::max(row_largest, std::bit_cast<uint32_t>(value) & 0x7FFFFFFFu);
    }
    largest = std::max(largest, row_largest);
  }
  return std::bit_cast<float>(largest);
}

// `what` names them in the error: "the keys of ...".
float finite_amax(ConstMatrixView x, const std::string& what) {
  const float amax = max_abs(x);
  if (std::isfinite(amax)) return amax;
  throw Error(ErrorKind::kCorrupt,
              fmt::format("calibration: {} hold a value that is not finite, expected finite "
                          "activations on this text (check the checkpoint's weights)",
                          what));
}

void raise(float& amax, float seen) { amax = std::max(amax, seen); }

}  // namespace

AmaxObserver::AmaxObserver(const quant::QuantPlan& plan, double all_experts_ratio)
    : plan_(plan), all_experts_ratio_(all_experts_ratio) {}

void AmaxObserver::on_input(const model::Module& linear, ConstMatrixView x) {
  if (!plan_.site(linear).needs_input_amax()) return;
  raise(layers_[linear.layer].input_amax[&linear], finite_amax(x, "the inputs of " + linear.name));
}

void AmaxObserver::on_kv(const model::AttentionSite& site, ConstMatrixView k, ConstMatrixView v) {
  if (plan_.kv_format() == nullptr || plan_.kv_is_cast()) return;
  KvAmax& amax = layers_[site.layer].kv_amax[&site];
  raise(amax.k, finite_amax(k, "the keys of " + site.name));
  raise(amax.v, finite_amax(v, "the values of " + site.name));
}

void AmaxObserver::on_routing(int layer, std::span<const int64_t> tokens_per_expert) {
  std::vector<int64_t>& counts = layers_[layer].expert_tokens;
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

const LayerStatistics& AmaxObserver::layer(int layer) const {
  static const LayerStatistics kNothing;
  const auto found = layers_.find(layer);
  return found == layers_.end() ? kNothing : found->second;
}

}  // namespace vernier::calib
