// y = x W^T for weights in any registered format.
#pragma once

#include <optional>
#include <span>

#include "formats/format.h"
#include "tensor/any_matrix.h"

namespace vernier::kernels {

// How a linear rounds its input, as a serving kernel would. Null format: not at all.
struct InputRule {
  const formats::Format* format = nullptr;
  float scale = 0;

  friend bool operator==(const InputRule&, const InputRule&) = default;
};

// x: [tokens, k], y: [tokens, n], overwritten; distinct. FP32 accumulation. A map is applied to x
// on its way into the rule's codes, with the bits of a pass of its own over x before; x stays as it
// is. REQUIRES: a rule, where there is a map.
//
// Host: all FP32. The weight is decoded tile by tile on its way into the product. Work is split
// into tiles of the output that the shapes alone decide, so that the result does not depend on the
// number of threads; it may differ in rounding between 64 tokens and 65, where the method changes.
// Allocates one tile of decoded weights a thread, kept between calls.
//
// Device: x and y each BF16 or FP32. The product runs in the device's compute type; an FP8 weight
// with an FP8 input rule runs as FP8 codes where the compute type is BF16.
void linear(ConstAnyMatrixView x, const formats::PackedView& weight, const InputRule& rule,
            AnyMatrixView y, formats::InputMap map = formats::InputMap::kNone);

// What a linear makes of its input before its product, so that an op before may write just that
// (rms_norm_encode). Host: values rounded by the rule, FP32. Device: the rule's codes, as the
// format's device encode_input gives them, in the type that the product takes.
struct InputCodes {
  InputRule rule;
  DType dtype = DType::kF32;

  friend bool operator==(const InputCodes&, const InputCodes&) = default;
};

// For n_tokens tokens. Absent: only linear() itself can prepare the input, or there is no rule.
std::optional<InputCodes> input_codes(const formats::PackedView& weight, const InputRule& rule,
                                      int64_t n_tokens);

// y = linear(x, weight, rule), bit for bit, from the codes of x that input_codes names. codes:
// contiguous.
void linear_of_codes(ConstAnyMatrixView codes, const formats::PackedView& weight,
                     const InputRule& rule, AnyMatrixView y);

// The same for an FP32 weight [n, k], in FP32 on every device (the router's). y is FP32.
void linear(ConstAnyMatrixView x, ConstAnyMatrixView weight, AnyMatrixView y);

// Rows of an embedding: y[i] = W[ids[i]]. ids in host memory. y: FP32 [ids.size(), k]. REQUIRES: 0
// <= ids[i] < weight.n.
void embed(std::span<const int32_t> ids, const formats::PackedView& weight, AnyMatrixView y);

// Keeps the host's BLAS to one thread inside our parallel regions. Called once by whoever starts
// work.
void configure_host_threads();

}  // namespace vernier::kernels
