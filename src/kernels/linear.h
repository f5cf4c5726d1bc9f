// y = x W^T for a weight in any registered format, decoded tile by tile on its way into the
// product.
#pragma once

#include "formats/format.h"
#include "tensor/matrix.h"

namespace vernier::kernels {

// x: [tokens, k], y: [tokens, n], overwritten; distinct. The weight may be packed in any format
// (bf16 included). FP32 accumulation. Work is split into tiles of the output that the shapes alone
// decide, so that the result does not depend on the number of threads; it may differ in rounding
// between 64 tokens and 65, where the method changes. Allocates one tile of decoded weights a
// thread, kept between calls.
void linear(ConstMatrixView x, const formats::PackedView& weight, MatrixView y);

// The same for an FP32 weight [n, k] (the router's).
void linear(ConstMatrixView x, ConstMatrixView weight, MatrixView y);

// Rows of an embedding: y[i] = W[ids[i]]. y: [ids.size(), k]. REQUIRES: 0 <= ids[i] < weight.n.
void embed(std::span<const int32_t> ids, const formats::PackedView& weight, MatrixView y);

// Keeps the host's BLAS to one thread inside our parallel regions. Called once by whoever starts
// work.
void configure_host_threads();

}  // namespace vernier::kernels
