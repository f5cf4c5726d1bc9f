// What a forward pass shows to whoever watches it: calibration, sensitivity scores, reports. The
// model calls up only through this interface.
#pragma once

#include <cstdint>
#include <span>

#include "model/module.h"
#include "tensor/any_matrix.h"

namespace vernier::model {

// Every method is called from the thread that runs the forward pass. Matrices are where the layer
// runs; on a device they are valid for work queued there before the method returns.
class SiteHook {
 public:
  virtual ~SiteHook() = default;

  // The input of a linear, before any rounding. x: [tokens, k], of an expert only its own tokens.
  virtual void on_input(const Module& /*linear*/, ConstAnyMatrixView /*x*/) {}
  // New keys and values before any rounding. k, v: [tokens, kv heads * head_dim].
  virtual void on_kv(const AttentionSite& /*site*/, ConstAnyMatrixView /*k*/,
                     ConstAnyMatrixView /*v*/) {}
  // How many tokens the router sent to each of a layer's experts in this call (true routing).
  virtual void on_routing(int /*layer*/, std::span<const int64_t> /*tokens_per_expert*/) {}
  // Experts a token should visit for statistics only, in an extra pass whose output is dropped; at
  // most top_k: no extra pass. With an extra pass on_input is called from it alone.
  virtual int64_t statistics_top_k(int64_t top_k, int64_t /*n_experts*/) { return top_k; }
};

}  // namespace vernier::model
