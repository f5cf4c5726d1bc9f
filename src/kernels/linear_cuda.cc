// Linear layers on a device. Every path multiplies codes: what weights and inputs are without their
// per-tensor scales, exact in BF16, so that one rounding, the output's, is all that is added to the
// formats' own. The scales meet in alpha.
#include "kernels/linear_cuda.h"

#include "formats/rows.h"
#include "kernels/convert_cuda.h"
#include "kernels/cuda.h"
#include "kernels/few_tokens_cuda.h"
#include "kernels/gemm_cuda.h"
#include "kernels/nvfp4_block_scaled_cuda.h"

namespace vernier::kernels::cuda {
namespace {

using formats::InputMap;
using formats::PackedView;
using formats::PlaneRole;

bool is_fp8(const PackedView& weight, const InputRule& rule) {
  return weight.format == &formats::kFp8E4m3Format && rule.format == weight.format &&
         weight.n % 16 == 0 && weight.k % 16 == 0;
}

void decoded_product(ConstAnyMatrixView codes, float alpha, const PackedView& weight,
                     AnyMatrixView y) {
  const int64_t n_tile_rows = y.device->state<DecodedTiles>().n_rows(weight, codes.dtype);
  AnyMatrix scratch(n_tile_rows, weight.k, codes.dtype, y.device);
  for (int64_t first = 0; first < weight.n; first += n_tile_rows) {
    const int64_t n_rows = std::min(n_tile_rows, weight.n - first);
    const AnyMatrixView tile = scratch.view().row_range(0, n_rows);
    weight.format->device_codec->decode_rows(weight, first, tile);
    multiply({.x = codes, .weight = tile, .y = y.col_range(first, n_rows), .alpha = alpha});
  }
}

void product_in_compute_dtype(ConstAnyMatrixView codes, float alpha, const PackedView& weight,
                              AnyMatrixView y) {
  if (is_in_place(weight, codes.dtype)) {
    return multiply({.x = codes, .weight = codes_of(weight), .y = y, .alpha = alpha});
  }
  decoded_product(codes, alpha, weight, y);
}

// An FP32 product has an FP32 output.
void decoded_path(ConstAnyMatrixView codes, float alpha, const PackedView& weight,
                  AnyMatrixView y) {
  if (codes.dtype != DType::kF32 || y.dtype == DType::kF32) {
    return product_in_compute_dtype(codes, alpha, weight, y);
  }
  AnyMatrix wide(y.rows, y.cols, DType::kF32, y.device);
  product_in_compute_dtype(codes, alpha, weight, wide);
  convert(wide, y);
}

void few_tokens_path(ConstAnyMatrixView codes, float alpha, const PackedView& weight,
                     AnyMatrixView y) {
  AnyMatrix copy;
  if (!has_loadable_rows(codes)) {
    copy = AnyMatrix(codes.rows, codes.cols, DType::kBF16, codes.device);
    convert(codes, copy);
    codes = copy.view();
  }
  const FewTokensProduct product{.x = codes, .weight = &weight, .alpha = alpha, .y = y};
  few_tokens({&product, 1});
}

bool fp8_path(ConstAnyMatrixView codes, float alpha, const PackedView& weight, AnyMatrixView y) {
  const Product product{.x = codes, .weight = codes_of(weight), .y = y, .alpha = alpha};
  return is_fp8_aligned(product) && try_multiply(product);
}

// The codes' values, for a product that has to take another path: exact.
void values_of_fp8(ConstAnyMatrixView codes, AnyMatrixView values) {
  const TensorView plane{codes.dtype,
                         {codes.rows, codes.cols},
                         static_cast<const std::byte*>(codes.data),
                         codes.device};
  const PackedView rows{
      .format = &formats::kFp8E4m3Format, .n = codes.rows, .k = codes.cols, .planes = {plane}};
  rows.format->device_codec->decode_rows(rows, 0, values);
}

// Whether the path could do it.
bool linear_on_path(LinearPath path, ConstAnyMatrixView x, const PackedView& weight,
                    const InputRule& rule, InputMap map, AnyMatrixView y) {
  const float alpha = product_scale(weight, rule);
  if (path == LinearPath::kBlockScaled) {
    return block_scaled_linear(x, weight, {rule.scale, map}, alpha, y);
  }
  const DType dtype = input_dtype(path, y.device);
  if (rule.format == nullptr && x.dtype == dtype) {
    return linear_of_codes(path, x, alpha, weight, y);
  }
  AnyMatrix codes(x.rows, x.cols, dtype, x.device);
  encode_input(x, rule, map, codes);
  return linear_of_codes(path, codes, alpha, weight, y);
}

}  // namespace

bool is_in_place(const PackedView& weight, DType dtype) {
  return weight.format == &formats::kBf16Format && weight.plane(PlaneRole::kCodes).dtype == dtype;
}

ConstAnyMatrixView codes_of(const PackedView& weight) {
  const TensorView& codes = weight.plane(PlaneRole::kCodes);
  return {codes.data, weight.n, weight.k, weight.k, codes.dtype, codes.device};
}

int64_t DecodedTiles::n_rows(const PackedView& weight, DType dtype) const {
  return decode_tile_rows(weight.n, weight.k, dtype, most_bytes);
}

// cuBLASLt reads a BF16 weight faster than few_tokens does, even for one token.
LinearPath linear_path(const PackedView& weight, const InputRule& rule, int64_t n_tokens) {
  const DType dtype = compute_dtype(weight.device());
  if (dtype != DType::kBF16 || is_in_place(weight, dtype)) return LinearPath::kDecoded;
  const bool can_be_few = n_tokens <= kFewTokens && takes_few_tokens(weight);
  if (can_be_few && n_tokens <= kFewTokensInPlace) return LinearPath::kFewTokens;
  if (takes_block_scaled(weight, rule)) return LinearPath::kBlockScaled;
  if (is_fp8(weight, rule)) return LinearPath::kFp8;
  return can_be_few ? LinearPath::kFewTokens : LinearPath::kDecoded;
}

DType input_dtype(LinearPath path, Device* device) {
  return path == LinearPath::kFp8 ? DType::kF8E4M3 : compute_dtype(device);
}

void encode_input(ConstAnyMatrixView x, const InputRule& rule, InputMap map, AnyMatrixView codes) {
  if (rule.format == nullptr) return convert(x, codes);
  rule.format->device_codec->encode_input(x, {rule.scale, map}, codes);
}

float product_scale(const PackedView& weight, const InputRule& rule) {
  const TensorView& global_scale = weight.plane(PlaneRole::kGlobalScale);
  const float weight_scale = global_scale.data == nullptr ? 1 : global_scale.as<float>()[0];
  return rule.format == nullptr ? weight_scale : weight_scale * rule.scale;
}

bool linear_of_codes(LinearPath path, ConstAnyMatrixView codes, float alpha,
                     const PackedView& weight, AnyMatrixView y) {
  switch (path) {
    case LinearPath::kFp8:
      return fp8_path(codes, alpha, weight, y);
    case LinearPath::kFewTokens:
      few_tokens_path(codes, alpha, weight, y);
      return true;
    default:
      VERNIER_CHECK(path == LinearPath::kDecoded);
      decoded_path(codes, alpha, weight, y);
      return true;
  }
}

void linear(ConstAnyMatrixView x, const PackedView& weight, const InputRule& rule, InputMap map,
            AnyMatrixView y) {
  if (y.rows == 0 || y.cols == 0) return;
  const LinearPath path = linear_path(weight, rule, x.rows);
  if (linear_on_path(path, x, weight, rule, map, y)) return;
  VERNIER_CHECK(linear_on_path(LinearPath::kDecoded, x, weight, rule, map, y));
}

std::optional<InputCodes> input_codes(const PackedView& weight, const InputRule& rule,
                                      int64_t n_tokens) {
  const LinearPath path = linear_path(weight, rule, n_tokens);
  if (path == LinearPath::kBlockScaled) return std::nullopt;
  return InputCodes{rule, input_dtype(path, weight.device())};
}

void linear_of_codes(ConstAnyMatrixView codes, const PackedView& weight, const InputRule& rule,
                     AnyMatrixView y) {
  if (y.rows == 0 || y.cols == 0) return;
  const LinearPath path = linear_path(weight, rule, codes.rows);
  const float alpha = product_scale(weight, rule);
  if (linear_of_codes(path, codes, alpha, weight, y)) return;
  AnyMatrix values(codes.rows, codes.cols, input_dtype(LinearPath::kDecoded, y.device), y.device);
  values_of_fp8(codes, values);
  VERNIER_CHECK(linear_of_codes(LinearPath::kDecoded, values, alpha, weight, y));
}

void linear(ConstAnyMatrixView x, ConstAnyMatrixView weight, AnyMatrixView y) {
  if (y.rows == 0 || y.cols == 0) return;
  AnyMatrix scratch;
  multiply({.x = as_dtype(x, DType::kF32, scratch), .weight = weight, .y = y});
}

}  // namespace vernier::kernels::cuda
