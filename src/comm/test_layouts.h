// For tests: every way to lay ranks out.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace vernier::comm {

struct LayoutSizes {
  int64_t tp = 1, pp = 1, ep = 1, dp = 1;

  int64_t world() const { return tp * pp * dp; }
  std::string name() const {
    return "tp" + std::to_string(tp) + "_pp" + std::to_string(pp) + "_ep" + std::to_string(ep) +
           "_dp" + std::to_string(dp);
  }
};

inline void PrintTo(const LayoutSizes& sizes, std::ostream* out) { *out << sizes.name(); }

// Of up to `most` ranks, for a network that may be cut so.
inline std::vector<LayoutSizes> all_layouts(int64_t most, const std::vector<int64_t>& tps,
                                            int64_t most_pp, int64_t n_experts) {
  std::vector<LayoutSizes> all;
  for (const int64_t tp : tps) {
    for (int64_t pp = 1; pp <= most_pp; ++pp) {
      for (int64_t dp = 1; tp * pp * dp <= most; ++dp) {
        for (int64_t ep = 1; ep <= tp * dp; ++ep) {
          if ((tp * dp) % ep == 0 && n_experts % ep == 0) all.push_back({tp, pp, ep, dp});
        }
      }
    }
  }
  return all;
}

}  // namespace vernier::comm
