// The products of routed experts: rows sorted by expert, a weight for each run of rows.
#pragma once

#include <span>

#include "kernels/linear.h"

namespace vernier::kernels {

struct GroupWeight {
  formats::PackedView weight;
  InputRule rule;
};

// y[row] = round_g(map(x[row])) W_g^T for the group g that owns the row: rows [begin[g], begin[g +
// 1]). begin: [groups.size() + 1] in host memory, from 0 to x.rows. All weights have one shape;
// formats may differ. Types and map as in linear().
void grouped_linear(ConstAnyMatrixView x, std::span<const int64_t> begin,
                    std::span<const GroupWeight> groups, AnyMatrixView y,
                    formats::InputMap map = formats::InputMap::kNone);

}  // namespace vernier::kernels
