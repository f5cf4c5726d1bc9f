// The registry of numeric formats. A format is one constant of type Format: its layout, its range
// and its conversions. Recipes, export, evaluation, tests and benches read the registry; to add a
// format, write its file group and one row in registry.cc.
//
// A weight W is [n, k] row-major (n outputs, k inputs). Packed, it is a set of planes (codes, block
// scales, global scale), laid out exactly as the published checkpoint stores them
// (docs/formats.md).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "formats/scale_rule.h"
#include "tensor/matrix.h"
#include "tensor/tensor.h"

namespace vernier::formats {

enum class PlaneRole { kCodes, kBlockScales, kGlobalScale };

struct PlaneSpec {
  PlaneRole role;
  std::string_view suffix;  // the checkpoint's tensor name after the module's: "weight_scale"
  DType dtype;
  Shape (*shape)(int64_t n, int64_t k);
};

struct Format;

// A packed weight that lives elsewhere, in a mapped checkpoint or a PackedTensor.
struct PackedView {
  const Format* format = nullptr;
  int64_t n = 0;
  int64_t k = 0;
  std::array<TensorView, 3> planes;  // by PlaneRole; unused ones stay empty

  const TensorView& plane(PlaneRole role) const { return planes[static_cast<size_t>(role)]; }
};

// An owned packed weight.
struct PackedTensor {
  const Format* format = nullptr;
  int64_t n = 0;
  int64_t k = 0;
  std::array<Tensor, 3> planes;  // by PlaneRole; unused ones stay empty

  const Tensor& plane(PlaneRole role) const { return planes[static_cast<size_t>(role)]; }
  Tensor& plane(PlaneRole role) { return planes[static_cast<size_t>(role)]; }
  PackedView view() const;
};

struct EncodeOptions {
  ScaleRule rule;
  Arithmetic arithmetic = Arithmetic::kCuda;
  // The largest |w| that the global scale covers, at least the tensor's own. Absent: computed.
  // Linears that serving kernels fuse (q, k, v) share the largest of theirs.
  std::optional<float> global_amax = std::nullopt;
};

struct Format {
  std::string_view name;     // "nvfp4": the one spelling in recipes, flags, files and tests
  std::string_view summary;  // one line for help and tables
  double bits_per_weight;    // block scales included, per-tensor scalars not
  int64_t k_multiple;        // k must be a multiple of this
  std::span<const PlaneSpec> planes;
  // The stored input_scale is the input's amax over this; 0 where the format has no input rule.
  float input_divisor;

  // Packs a weight [n, k] given in BF16 (F16 and F32 are rounded to BF16 first). Deterministic,
  // whatever the number of threads. REQUIRES: k % k_multiple == 0, every value finite (scan_amax
  // tells).
  PackedTensor (*encode)(const TensorView& weight, const EncodeOptions& options);

  // Writes rows [first_row, first_row + n_rows) in FP32 to `out` [n_rows, k]. One thread.
  void (*decode_rows)(const PackedView& packed, int64_t first_row, int64_t n_rows, float* out);

  // Rounds activations in place as a serving kernel does before its product: quantize, dequantize,
  // FP32. Null where input_divisor is 0. REQUIRES: x.cols % k_multiple == 0, input_scale > 0. One
  // thread.
  void (*round_input)(MatrixView x, float input_scale);

  // The largest value of a code, before scales; 0 where codes do not saturate.
  float code_max = 0;
};

// Every registered format, the unquantized "bf16" first.
std::span<const Format* const> all_formats();
// Null when there is no such format.
const Format* find_format(std::string_view name);
// The unquantized format: one plane, BF16 (decode_rows also reads F16 and F32 planes).
const Format& bf16_format();

// Bytes of the packed planes.
int64_t packed_bytes(const Format& format, int64_t n, int64_t k);
// A packed weight with its planes allocated and not initialized. REQUIRES: k % k_multiple == 0.
PackedTensor make_packed(const Format& format, int64_t n, int64_t k);

struct AmaxScan {
  float amax = 0;  // largest |w|; of the finite ones when some are not
  std::optional<int64_t> first_non_finite;
};
// Scans a BF16, F16 or F32 tensor; F16 and F32 values count as their BF16 rounding.
AmaxScan scan_amax(const TensorView& weight);

// What packing did to a weight.
struct Distortion {
  double signal = 0;        // sum of w^2
  double noise = 0;         // sum of (w - decoded)^2
  int64_t n_saturated = 0;  // |w| beyond the largest value its scale reaches
  int64_t n_flushed = 0;    // nonzero w that decode to zero

  double snr_db() const;  // 10 log10(signal / noise); +inf without noise
};
Distortion measure_distortion(const TensorView& weight, const PackedView& packed);

}  // namespace vernier::formats
