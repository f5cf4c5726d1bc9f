// Max calibration's observer: the largest magnitude that reaches each quantized input and each
// cache, and how many tokens each expert saw.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "model/site_hook.h"
#include "quant/plan.h"

namespace vernier::calib {

struct KvAmax {
  float k = 0;
  float v = 0;
};

// What one layer showed. Modules and sites that saw no token are absent.
struct LayerStatistics {
  std::map<const model::Module*, float> input_amax;
  std::map<const model::AttentionSite*, KvAmax> kv_amax;
  std::vector<int64_t> expert_tokens;  // by expert, true routing; empty for layers without experts
};

class AmaxObserver : public model::SiteHook {
 public:
  // `all_experts_ratio` r > 0: statistics come from an extra pass in which every token visits
  // max(top_k, round(r * n_experts)) experts, halves to even; 0: from the true routing. The plan
  // must outlive this.
  AmaxObserver(const quant::QuantPlan& plan, double all_experts_ratio);

  // On a device both are queued only.
  void on_input(const model::Module& linear, ConstAnyMatrixView x) override;
  void on_kv(const model::AttentionSite& site, ConstAnyMatrixView k, ConstAnyMatrixView v) override;
  void on_routing(int layer, std::span<const int64_t> tokens_per_expert) override;
  int64_t statistics_top_k(int64_t top_k, int64_t n_experts) override;

  // What a layer has shown so far; -1 for modules outside the stack. Waits for the device. Throws
  // Corrupt naming the site when a value was not finite.
  LayerStatistics layer(int layer) const;

 private:
  // Running maxima of one layer, where the layer runs, and which slot is whose.
  struct Observed {
    Vector<float> amax;
    int64_t n_slots = 0;
    std::map<const model::Module*, int64_t> inputs;
    std::map<const model::AttentionSite*, int64_t> kv;  // keys; values are the next slot's
    std::vector<int64_t> expert_tokens;
  };
  Observed& observed(int layer, Device* device);

  const quant::QuantPlan& plan_;
  double all_experts_ratio_;
  std::map<int, Observed> observed_;
};

}  // namespace vernier::calib
