// What the tests of the router and of its gradients share.
#pragma once

#include <numeric>

#include "kernels/router.h"
#include "kernels/test_support.h"

namespace vernier::kernels {

class OnEveryTargetWithRoutings : public OnEveryTarget {
 protected:
  // Every token's experts random and distinct, in ascending order, weights random.
  Routing random_routing(int64_t n_tokens, int64_t n_experts, int64_t top_k, uint32_t seed) const {
    std::mt19937 engine(seed);
    std::vector<int32_t> all(static_cast<size_t>(n_experts));
    std::iota(all.begin(), all.end(), 0);
    std::vector<int32_t> experts;
    for (int64_t token = 0; token < n_tokens; ++token) {
      std::sample(all.begin(), all.end(), std::back_inserter(experts), top_k, engine);
    }
    return {top_k, vector(experts), vector(random_vector(n_tokens * top_k, seed + 1))};
  }
};

}  // namespace vernier::kernels
