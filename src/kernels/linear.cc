// Linear layers: checks and dispatch.
#include "kernels/linear.h"

#include "kernels/checks.h"
#include "kernels/cpu.h"
#include "kernels/cuda.h"
#include "kernels/grouped_linear.h"

namespace vernier::kernels {

using formats::InputMap;

namespace {

void check(ConstAnyMatrixView x, const formats::PackedView& weight, const InputRule& rule,
           InputMap map, ConstAnyMatrixView y) {
  VERNIER_CHECK(weight.format != nullptr);
  VERNIER_CHECK(x.cols == weight.k && has_shape(y, x.rows, weight.n));
  VERNIER_CHECK(is_activation(x) && is_activation(y));
  VERNIER_CHECK(same_place(y.device, {x.device, weight.device()}));
  VERNIER_CHECK(rule.format == nullptr || x.cols % rule.format->k_multiple == 0);
  VERNIER_CHECK(map == InputMap::kNone || rule.format != nullptr);
}

void linear_on_host(ConstMatrixView x, const formats::PackedView& weight, const InputRule& rule,
                    InputMap map, MatrixView y) {
  if (rule.format == nullptr) return cpu::linear(x, weight, y);
  // x may have other readers, each with a rule of its own.
  AnyMatrix rounded(x.rows, x.cols, DType::kF32, nullptr);
  copy_matrix(x, rounded);
  if (map == InputMap::kSquaredRelu) cpu::squared_relu(rounded.view().host());
  cpu::round_input(*rule.format, rule.scale, rounded.view().host());
  cpu::linear(rounded.view().host(), weight, y);
}

}  // namespace

void linear(ConstAnyMatrixView x, const formats::PackedView& weight, const InputRule& rule,
            AnyMatrixView y, InputMap map) {
  check(x, weight, rule, map, y);
  if (y.device != nullptr) return cuda::linear(x, weight, rule, map, y);
  linear_on_host(x.host(), weight, rule, map, y.host());
}

std::optional<InputCodes> input_codes(const formats::PackedView& weight, const InputRule& rule,
                                      int64_t n_tokens) {
  if (rule.format == nullptr) return std::nullopt;
  if (weight.device() != nullptr) return cuda::input_codes(weight, rule, n_tokens);
  return InputCodes{rule, DType::kF32};
}

void linear_of_codes(ConstAnyMatrixView codes, const formats::PackedView& weight,
                     const InputRule& rule, AnyMatrixView y) {
  VERNIER_CHECK(weight.format != nullptr);
  VERNIER_CHECK(codes.cols == weight.k && has_shape(y, codes.rows, weight.n));
  VERNIER_CHECK(codes.row_stride == codes.cols && is_activation(y));
  VERNIER_CHECK(same_place(y.device, {codes.device, weight.device()}));
  const std::optional<InputCodes> expected = input_codes(weight, rule, codes.rows);
  VERNIER_CHECK(expected.has_value() && codes.dtype == expected->dtype);
  if (y.device != nullptr) return cuda::linear_of_codes(codes, weight, rule, y);
  cpu::linear(codes.host(), weight, y.host());
}

void linear(ConstAnyMatrixView x, ConstAnyMatrixView weight, AnyMatrixView y) {
  VERNIER_CHECK(x.cols == weight.cols && has_shape(y, x.rows, weight.rows));
  VERNIER_CHECK(is_activation(x) && has_dtype(weight, DType::kF32) && has_dtype(y, DType::kF32));
  VERNIER_CHECK(same_place(y.device, {x.device, weight.device}));
  if (y.device != nullptr) return cuda::linear(x, weight, y);
  cpu::linear(x.host(), weight.host(), y.host());
}

void grouped_linear(ConstAnyMatrixView x, std::span<const int64_t> begin,
                    std::span<const GroupWeight> groups, AnyMatrixView y, InputMap map) {
  VERNIER_CHECK(begin.size() == groups.size() + 1);
  VERNIER_CHECK(begin.front() == 0 && begin.back() == x.rows && x.rows == y.rows);
  for (size_t group = 0; group < groups.size(); ++group) {
    const int64_t n_rows = begin[group + 1] - begin[group];
    VERNIER_CHECK(n_rows >= 0);
    check(x.row_range(begin[group], n_rows), groups[group].weight, groups[group].rule, map,
          y.row_range(begin[group], n_rows));
  }
  if (y.device != nullptr) return cuda::grouped_linear(x, begin, groups, map, y);
  for (size_t group = 0; group < groups.size(); ++group) {
    const int64_t n_rows = begin[group + 1] - begin[group];
    if (n_rows == 0) continue;
    linear_on_host(x.row_range(begin[group], n_rows).host(), groups[group].weight,
                   groups[group].rule, map, y.row_range(begin[group], n_rows).host());
  }
}

void embed(std::span<const int32_t> ids, const formats::PackedView& weight, AnyMatrixView y) {
  VERNIER_CHECK(weight.format != nullptr);
  VERNIER_CHECK(has_shape(y, static_cast<int64_t>(ids.size()), weight.k));
  VERNIER_CHECK(has_dtype(y, DType::kF32) && same_place(y.device, {weight.device()}));
  VERNIER_CHECK(all_below(ids, weight.n));
  if (y.device != nullptr) return cuda::embed(ids, weight, y);
  cpu::embed(ids, weight, y.host());
}

}  // namespace vernier::kernels
