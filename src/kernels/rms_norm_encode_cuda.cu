// The norm whose results are codes: x is read once, FP32, and codes are written once, 5 bytes an
// element for FP8 codes and 6 for BF16, where a norm and a quantizer that follow one another move 9
// and 10. The kernels are rms_norm_cuda.h's, so that the norm's bits are too; a thread codes its
// packs of 8 channels in registers, NVFP4's blocks of 16 with its neighbour.
//
// 16384 tokens of 4096 channels at 3 TB/s: 0.11 ms of 336 MB (FP8 codes), 0.13 ms of 403 MB (BF16
// codes of NVFP4).
#include "formats/fp8_input_cuda.h"
#include "formats/nvfp4_input_cuda.h"
#include "formats/rows.h"
#include "kernels/cuda.h"
#include "kernels/rms_norm_cuda.h"

namespace vernier::kernels::cuda {
namespace {

using formats::cuda::Bf16;
using formats::cuda::E4m3;

// Act: the type of activations that a normed value is rounded to first, Bf16 or float.
template <class Act, class Code, bool kFast>
struct Fp8Sink {
  static constexpr int kElems = 1;
  Rows<Code> codes;
  float scale;

  __device__ void store_pack(int64_t row, int col, float (&values)[kNormPack],
                             bool is_inside) const {
    if (!is_inside) return;
    formats::cuda::round_eight<Act>(values);
    const formats::cuda::Fp8Quotient<kFast> quotient_of(scale);
#pragma unroll
    for (float& value : values) value = quotient_of(value);
    formats::cuda::store_fp8_codes<true>(values, codes.at(row, col));
  }
  __device__ void store_elems(int64_t row, int col, const float (&values)[kElems]) const {
    const formats::cuda::Fp8Quotient<kFast> quotient_of(scale);
    const float value = formats::cuda::round_one<Act>(values[0]);
    formats::cuda::store_fp8_code(quotient_of(value), codes.at(row, col));
  }
};

template <class Act, class Code, bool kFast>
struct Nvfp4Sink {
  static constexpr int kElems = formats::kNvfp4Block;
  Rows<Code> codes;
  float scale;

  __device__ void store_pack(int64_t row, int col, float (&values)[kNormPack],
                             bool is_inside) const {
    formats::cuda::round_eight<Act>(values);
    formats::cuda::round_half_block<kFast>(values, scale);
    if (is_inside) formats::cuda::store_eight<true>(values, codes.at(row, col));
  }
  __device__ void store_elems(int64_t row, int col, const float (&values)[kElems]) const {
    float halves[2][8];
    uint32_t amax = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < 8; ++i) halves[half][i] = values[half * 8 + i];
      formats::cuda::round_eight<Act>(halves[half]);
      amax = max(amax, formats::cuda::amax_bits(halves[half]));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      formats::cuda::round_half_block<kFast>(halves[half], amax, scale);
      formats::cuda::store_eight<false>(halves[half], codes.at(row, col + half * 8));
    }
  }
};

template <class Sink>
void launch(ConstAnyMatrixView x, const NormUnits& units, const Sink& sink, AnyMatrixView codes) {
  launch_norm<float, false>(units, has_norm_packs(units, {x, codes}), rows_of<const float>(x), {},
                            sink, stream_of(codes.device));
}

// Calls body(Act(), Code(), is_fast) with the types that belong to the codes'. is_fast can be true
// only where activations are BF16: quotients of other numbers need a division.
template <class Body>
void with_code_type(AnyMatrixView codes, bool can_be_fast, const Body& body) {
  VERNIER_CHECK((codes.dtype == DType::kF32) == (compute_dtype(codes.device) == DType::kF32));
  if (codes.dtype == DType::kF32) return body(float(), float(), std::false_type());
  formats::cuda::with_flag(can_be_fast, [&](auto is_fast) {
    if (codes.dtype == DType::kF8E4M3) return body(Bf16(), E4m3(), is_fast);
    VERNIER_CHECK(codes.dtype == DType::kBF16);
    body(Bf16(), Bf16(), is_fast);
  });
}

void encode_fp8(ConstAnyMatrixView x, const NormUnits& units, float scale, AnyMatrixView codes) {
  with_code_type(
      codes, formats::divides_exactly(scale, scale),
      [&]<class Act, class Code, class Fast>(Act, Code, Fast) {
        launch(x, units, Fp8Sink<Act, Code, Fast::value>{rows_of<Code>(codes), scale}, codes);
      });
}

void encode_nvfp4(ConstAnyMatrixView x, const NormUnits& units, float scale, AnyMatrixView codes) {
  VERNIER_CHECK(codes.dtype != DType::kF8E4M3);
  with_code_type(
      codes, formats::cuda::nvfp4_divides_exactly(scale),
      [&]<class Act, class Code, class Fast>(Act, Code, Fast) {
        if constexpr (!std::is_same_v<Code, E4m3>) {
          launch(x, units, Nvfp4Sink<Act, Code, Fast::value>{rows_of<Code>(codes), scale}, codes);
        }
      });
}

}  // namespace

void rms_norm_encode(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                     const InputRule& rule, AnyMatrixView codes) {
  const NormUnits units = norm_units(x, weight, 1, eps);
  if (rule.format == &formats::kFp8E4m3Format) return encode_fp8(x, units, rule.scale, codes);
  if (rule.format == &formats::kNvfp4Format) return encode_nvfp4(x, units, rule.scale, codes);
  AnyMatrix normed = new_activation(x.rows, x.cols, x.device);
  rms_norm(x, weight, eps, normed);
  rule.format->device_codec->encode_input(normed, rule.scale, codes);
}

}  // namespace vernier::kernels::cuda
