// Gradients of linear layers on a device: products of cuBLASLt in the compute type. A BF16 weight
// is read where it lies; others are decoded, whole where they fit a tile, else a tile of rows at a
// time, whose parts are added in FP32. As in linear, codes are multiplied and the weight's
// per-tensor scale is the product's alpha.
#include <algorithm>

#include "kernels/convert_cuda.h"
#include "kernels/cuda.h"
#include "kernels/gemm_cuda.h"
#include "kernels/linear_cuda.h"

namespace vernier::kernels::cuda {
namespace {

using formats::PackedView;

void in_place_product(ConstAnyMatrixView g_y, const PackedView& weight, AnyMatrixView g_x) {
  multiply({.x = g_y,
            .weight = codes_of(weight),
            .y = g_x,
            .alpha = product_scale(weight, {}),
            .form = ProductForm::kInputGradient});
}

void decoded_product(ConstAnyMatrixView g_y, const PackedView& weight, int64_t n_tile_rows,
                     AnyMatrixView g_x) {
  AnyMatrix scratch(n_tile_rows, weight.k, g_y.dtype, g_x.device);
  for (int64_t first = 0; first < weight.n; first += n_tile_rows) {
    const int64_t n_rows = std::min(n_tile_rows, weight.n - first);
    const AnyMatrixView tile = scratch.view().row_range(0, n_rows);
    weight.format->device_codec->decode_rows(weight, first, tile);
    multiply({.x = g_y.col_range(first, n_rows),
              .weight = tile,
              .y = g_x,
              .alpha = product_scale(weight, {}),
              .form = ProductForm::kInputGradient,
              .adds = first > 0});
  }
}

// g_y in the compute type. FP32 products and sums over tiles have an FP32 output.
void input_gradient(ConstAnyMatrixView g_y, const PackedView& weight, AnyMatrixView g_x) {
  const bool is_where_it_lies = is_in_place(weight, g_y.dtype);
  const int64_t n_tile_rows = g_x.device->state<DecodedTiles>().n_rows(weight, g_y.dtype);
  const bool is_one_product = is_where_it_lies || n_tile_rows == weight.n;
  const bool is_wide = g_y.dtype == DType::kF32 || !is_one_product;
  AnyMatrix wide;
  AnyMatrixView out = g_x;
  if (is_wide && g_x.dtype != DType::kF32) {
    wide = AnyMatrix(g_x.rows, g_x.cols, DType::kF32, g_x.device);
    out = wide.view();
  }
  if (is_where_it_lies) {
    in_place_product(g_y, weight, out);
  } else {
    decoded_product(g_y, weight, n_tile_rows, out);
  }
  if (out.dtype != g_x.dtype) convert(out, g_x);
}

}  // namespace

void linear_input_gradient(ConstAnyMatrixView g_y, const PackedView& weight, AnyMatrixView g_x) {
  AnyMatrix scratch;
  input_gradient(as_dtype(g_y, compute_dtype(g_y.device), scratch), weight, g_x);
}

void linear_input_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView weight, AnyMatrixView g_x) {
  AnyMatrix scratch;
  multiply({.x = as_dtype(g_y, DType::kF32, scratch),
            .weight = weight,
            .y = g_x,
            .form = ProductForm::kInputGradient});
}

void grouped_input_gradient(ConstAnyMatrixView g_y, std::span<const int64_t> begin,
                            std::span<const GroupWeight> groups, AnyMatrixView g_x) {
  AnyMatrix scratch;
  const ConstAnyMatrixView codes = as_dtype(g_y, compute_dtype(g_y.device), scratch);
  for (size_t group = 0; group < groups.size(); ++group) {
    const int64_t n_rows = begin[group + 1] - begin[group];
    if (n_rows == 0) continue;
    input_gradient(codes.row_range(begin[group], n_rows), groups[group].weight,
                   g_x.row_range(begin[group], n_rows));
  }
}

void linear_weight_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView x, AnyMatrixView g_weight) {
  const DType dtype = compute_dtype(g_weight.device);
  AnyMatrix g_y_scratch;
  AnyMatrix x_scratch;
  multiply({.x = as_dtype(g_y, dtype, g_y_scratch),
            .weight = as_dtype(x, dtype, x_scratch),
            .y = g_weight,
            .form = ProductForm::kWeightGradient,
            .adds = true});
}

}  // namespace vernier::kernels::cuda
