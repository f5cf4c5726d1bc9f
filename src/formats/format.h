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

#include "formats/input_map.h"
#include "formats/scale_rule.h"
#include "tensor/any_matrix.h"
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

// A packed weight that lives elsewhere, in a mapped checkpoint or a PackedTensor. Codes and block
// scales are in host or device memory, the global scale, one number, always in host memory.
struct PackedView {
  const Format* format = nullptr;
  int64_t n = 0;
  int64_t k = 0;
  std::array<TensorView, 3> planes;  // by PlaneRole; unused ones stay empty

  const TensorView& plane(PlaneRole role) const { return planes[static_cast<size_t>(role)]; }
  Device* device() const { return plane(PlaneRole::kCodes).device; }
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

// What packing did to a weight.
struct Distortion {
  double signal = 0;        // sum of w^2
  double noise = 0;         // sum of (w - decoded)^2
  int64_t n_saturated = 0;  // |w| beyond the largest value its scale reaches
  int64_t n_flushed = 0;    // nonzero w that decode to zero

  double snr_db() const;  // 10 log10(signal / noise); +inf without noise
};

// How inputs become codes: mapped, then divided by the scale. A scale alone maps nothing.
struct InputCoding {
  InputCoding(float scale, InputMap map = InputMap::kNone) : scale(scale), map(map) {}

  float scale;
  InputMap map;
};

// A format's conversions on a device; all are queued. Bit-equal to the host's.
struct DeviceCodec {
  // As Format::encode, for a BF16 weight on a device. The result's planes are there too.
  PackedTensor (*encode)(const TensorView& weight, const EncodeOptions& options);
  // out[row] = row first_row + row, divided by the global scale where there is one, so that BF16
  // holds it exactly (a code times a block scale has 6 significant bits). out: BF16 or FP32.
  void (*decode_rows)(const PackedView& packed, int64_t first_row, AnyMatrixView out);
  // codes = what Format::round_input makes of x, divided by the scale: a small number of
  // significant bits, exact in BF16. x: BF16 or FP32; what a map makes of it is rounded to its type
  // first. codes: BF16, FP32 or, where input_dtype is that, F8_E4M3. Null where the format has no
  // input rule.
  void (*encode_input)(ConstAnyMatrixView x, const InputCoding& coding, AnyMatrixView codes);
  // The type of input codes that products and caches take, kF8E4M3; absent: the compute type.
  std::optional<DType> input_dtype;
  // As measure_distortion; waits for the device.
  Distortion (*distortion)(const TensorView& weight, const PackedView& packed);
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
  // tells). A weight on a device goes through encode_weight.
  PackedTensor (*encode)(const TensorView& weight, const EncodeOptions& options);

  // Writes rows [first_row, first_row + n_rows) in FP32 to `out` [n_rows, k]. One thread.
  void (*decode_rows)(const PackedView& packed, int64_t first_row, int64_t n_rows, float* out);

  // Rounds activations in place as a serving kernel does before its product: quantize, dequantize,
  // FP32. Null where input_divisor is 0. REQUIRES: x.cols % k_multiple == 0, input_scale > 0. One
  // thread.
  void (*round_input)(MatrixView x, float input_scale);

  // The largest value of a code, before scales; 0 where codes do not saturate.
  float code_max = 0;
  const DeviceCodec* device_codec = nullptr;
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
PackedTensor make_packed(const Format& format, int64_t n, int64_t k, Device* device = nullptr);
// Packs a weight where it is, on the host or a device: Format::encode or the device's.
PackedTensor encode_weight(const Format& format, const TensorView& weight,
                           const EncodeOptions& options);
// A copy of all planes in host memory; waits for the device.
PackedTensor to_host(const PackedView& packed);

struct AmaxScan {
  float amax = 0;  // largest |w|; of the finite ones when some are not
  std::optional<int64_t> first_non_finite;
};
// Scans a BF16, F16 or F32 tensor; F16 and F32 values count as their BF16 rounding. On a device: a
// BF16 one, and waits.
AmaxScan scan_amax(const TensorView& weight);

// Both in host memory or both, the weight in BF16, on one device; waits for it.
Distortion measure_distortion(const TensorView& weight, const PackedView& packed);

}  // namespace vernier::formats
