// Searches the fastest algorithm of a product by trial. The library's own choice is a guess from
// the shape; its first may be some per cent from the best.
#pragma once

#include <optional>
#include <vector>

#include "kernels/lt_product_cuda.h"

namespace vernier::kernels::cuda {

// Milliseconds of each algorithm: the median of the rounds, each of which runs every algorithm in
// turn, so that a slower clock meets all of them alike. Infinity for one that does not run. Waits
// for the device; overwrites the product's y.
std::vector<double> measure(const LtProduct& product, const std::vector<Algorithm>& algorithms,
                            int n_rounds, int n_repeats);

// What can be set of an algorithm, and the values its family may know.
struct Setting {
  cublasLtMatmulAlgoConfigAttributes_t attribute;
  size_t n_bytes;  // width of the setting
  std::vector<uint32_t> values;
};
std::vector<Setting> settings_of(const Algorithm& algorithm);
// The algorithm with another value there; absent where the library refuses it or it already has it.
std::optional<Algorithm> variant(const Algorithm& algorithm, const Setting& setting,
                                 uint32_t value);

// All accepted algorithms that differ from this one in a single setting.
std::vector<Algorithm> neighbours(const LtProduct& product, const Algorithm& algorithm);

enum class Effort {
  kQuick,    // few rounds, some milliseconds, for shapes of which there are many
  kCareful,  // more rounds, which tell apart what differs by a fraction of a per cent
  kThorough  // and then one setting of the fastest after another is changed while that helps
};

// The fastest of the candidates, which must not be empty, and of what a thorough search reaches
// from it. Waits for the device; overwrites the product's y. n_flops: how many operations the
// product is.
Algorithm search(const LtProduct& product, const std::vector<Algorithm>& candidates, double n_flops,
                 Effort effort);

}  // namespace vernier::kernels::cuda
