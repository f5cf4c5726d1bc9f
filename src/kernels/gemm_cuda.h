// Matrix products on a device through cuBLASLt, each with the algorithm that GemmPlans chose.
#pragma once

#include "kernels/lt_product_cuda.h"

namespace vernier::kernels::cuda {

// Whether the operands have the alignment that FP8 products need: 16 bytes for addresses and rows,
// n and k multiples of 16.
bool is_fp8_aligned(const Product& product);

// Queues the product. Throws Unsupported where cuBLASLt has no algorithm for it. The first one of a
// shape may take longer and waits for the device (GemmPlans).
void multiply(const Product& product);
// The same, except that nothing is queued and the answer is false where there is no algorithm.
[[nodiscard]] bool try_multiply(const Product& product);

}  // namespace vernier::kernels::cuda
