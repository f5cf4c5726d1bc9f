// The parts of a linear layer on a device that grouped_linear and gradients share with it.
#pragma once

#include "kernels/decode_tile.h"
#include "kernels/linear.h"

namespace vernier::kernels::cuda {

// How a product with a weight runs.
enum class LinearPath {
  kFewTokens,    // few_tokens: decoded inside the product
  kFp8,          // FP8 codes by FP8 codes
  kBlockScaled,  // NVFP4 codes by NVFP4 codes, where the device can
  kDecoded,      // in the compute type: in place, or decoded a tile of rows at a time
};
LinearPath linear_path(const formats::PackedView& weight, const InputRule& rule, int64_t n_tokens);

// Whether products of this type read the weight where it lies, and the weight as they see it.
bool is_in_place(const formats::PackedView& weight, DType dtype);
ConstAnyMatrixView codes_of(const formats::PackedView& weight);

// How much of a weight is decoded at a time: device->state<DecodedTiles>().
struct DecodedTiles {
  explicit DecodedTiles(Device&) {}

  int64_t most_bytes = kDecodeTileBytes;  // tests lower it

  // Rows of a tile.
  int64_t n_rows(const formats::PackedView& weight, DType dtype) const;
};

// The type in which the path takes its input. Not for kBlockScaled.
DType input_dtype(LinearPath path, Device* device);

// codes = x, mapped, coded by the rule, hence divided by its scale, or converted where there is
// none. REQUIRES: a rule, where there is a map.
void encode_input(ConstAnyMatrixView x, const InputRule& rule, formats::InputMap map,
                  AnyMatrixView codes);

// What the product of codes has to be multiplied by.
float product_scale(const formats::PackedView& weight, const InputRule& rule);

// y = alpha codes W^T on the path, not kBlockScaled. False: it cannot after all (operands lie
// badly, or the library has no algorithm) and nothing is queued; kDecoded always can.
[[nodiscard]] bool linear_of_codes(LinearPath path, ConstAnyMatrixView codes, float alpha,
                                   const formats::PackedView& weight, AnyMatrixView y);

}  // namespace vernier::kernels::cuda
