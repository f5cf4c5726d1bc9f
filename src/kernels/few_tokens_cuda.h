// Products of a few tokens with packed weights, as decoding needs them: the weight is read once, as
// it is stored, and decoded on its way into the tensor cores.
#pragma once

#include <span>

#include "formats/format.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels::cuda {

// Tokens that one call takes. Up to the first number it also is the better choice where tensor
// cores could take the weight's codes as they are, or where many groups share a launch; beyond,
// only where the weight would have to be decoded.
inline constexpr int64_t kFewTokensInPlace = 8;
inline constexpr int64_t kFewTokens = 32;

// y = alpha x D^T, where D is what the format's device decode_rows makes of the weight.
struct FewTokensProduct {
  ConstAnyMatrixView x;  // BF16 [tokens, k]
  const formats::PackedView* weight = nullptr;
  float alpha = 1;
  AnyMatrixView y;  // BF16 or FP32 [tokens, n]
};

// Whether this kernel knows the format and the weight's rows allow its 16-byte loads.
bool takes_few_tokens(const formats::PackedView& weight);
// And the rows of x, which a copy may have where x has not.
bool has_loadable_rows(ConstAnyMatrixView x);

// All products at once: the experts of a batch, or one. Accumulated in FP32, in an order that
// depends on n and k alone. REQUIRES: the above; one format, n, k and type of y; of x and of y one
// row stride each; at most kFewTokens tokens each.
void few_tokens(std::span<const FewTokensProduct> products);

}  // namespace vernier::kernels::cuda
