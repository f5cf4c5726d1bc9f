// Gradients of y = x W^T: g_x = g_y W and g_W = g_y^T x.
#pragma once

#include <span>

#include "kernels/grouped_linear.h"

namespace vernier::kernels {

// g_y: [tokens, n], g_x: [tokens, k], overwritten; distinct. The rule by which a linear rounds its
// input has the identity as its derivative here (straight through), so none of these takes one.
// REQUIRES: n > 0.
//
// Host: all FP32. The weight is decoded a tile of rows at a time; tiles depend on the shapes alone,
// so that results do not depend on the number of threads. Allocates the tile, kept between calls.
//
// Device: g_y and g_x each BF16 or FP32. The product runs in the device's compute type, to which
// g_y is rounded, and is accumulated in FP32, over tiles of the weight as well.
void linear_input_gradient(ConstAnyMatrixView g_y, const formats::PackedView& weight,
                           AnyMatrixView g_x);

// The same for an FP32 weight [n, k], in FP32 on every device (the router's). g_x is FP32.
void linear_input_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView weight, AnyMatrixView g_x);

// g_x[row] = g_y[row] W_g for the group g that owns the row. Arguments as grouped_linear's; rules
// are ignored.
void grouped_input_gradient(ConstAnyMatrixView g_y, std::span<const int64_t> begin,
                            std::span<const GroupWeight> groups, AnyMatrixView g_x);

// g_weight += g_y^T x, with x as the product saw it, rounded by its rule. g_weight: FP32 [n, k]; an
// empty one is not wanted. Types of g_y and x as those of g_y and g_x above. The sum runs over
// tokens in an order that the shapes (host) or the plan (device) decide. No tokens add nothing.
void linear_weight_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView x, AnyMatrixView g_weight);

}  // namespace vernier::kernels
