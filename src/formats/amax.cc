// The largest magnitude of a tensor. Magnitudes are compared as integers: the bit patterns of
// finite floats without their sign are in the order of their values, with infinities and NaNs
// above.
#include <algorithm>
#include <vector>

#include "base/check.h"
#include "formats/amax_cuda.h"
#include "formats/bf16.h"
#include "formats/format.h"
#include "formats/fp16.h"

namespace vernier::formats {
namespace {

// A floating-point layout: `Bits` unsigned, `kLimit` the first pattern that is infinite once
// rounded to BF16, `value` a magnitude's BF16 rounding.
struct Bf16Layout {
  using Bits = uint16_t;
  static constexpr Bits kMagnitude = 0x7FFF;
  static constexpr Bits kLimit = 0x7F80;
  static float value(Bits magnitude) { return bf16_to_float(magnitude); }
};
struct Fp16Layout {
  using Bits = uint16_t;
  static constexpr Bits kMagnitude = 0x7FFF;
  static constexpr Bits kLimit = 0x7C00;
  static float value(Bits magnitude) { return round_to_bf16(fp16_to_float(magnitude)); }
};
struct Fp32Layout {
  using Bits = uint32_t;
  static constexpr Bits kMagnitude = 0x7FFFFFFF;
  static constexpr Bits kLimit = 0x7F7F8000;
  static float value(Bits magnitude) { return round_to_bf16(bits_float(magnitude)); }
};

// Signed, because the baseline's vector unit has a maximum of signed integers only.
template <class Layout>
typename Layout::Bits largest_magnitude(std::span<const typename Layout::Bits> elems) {
  using Signed = std::make_signed_t<typename Layout::Bits>;
  Signed largest = 0;
  for (const auto bits : elems) {
    largest = std::max(largest, static_cast<Signed>(bits & Layout::kMagnitude));
  }
  return static_cast<typename Layout::Bits>(largest);
}

// Around the non-finite elements, which are rare: plain.
template <class Layout>
AmaxScan scan_non_finite(std::span<const typename Layout::Bits> elems) {
  AmaxScan scan;
  typename Layout::Bits largest = 0;
  for (size_t i = 0; i < elems.size(); ++i) {
    const typename Layout::Bits magnitude = elems[i] & Layout::kMagnitude;
    if (magnitude < Layout::kLimit) {
      largest = std::max(largest, magnitude);
    } else if (!scan.first_non_finite) {
      scan.first_non_finite = static_cast<int64_t>(i);
    }
  }
  scan.amax = Layout::value(largest);
  return scan;
}

template <class Layout>
AmaxScan scan(const TensorView& tensor) {
  using Bits = typename Layout::Bits;
  const std::span<const Bits> elems = tensor.as<Bits>();
  constexpr size_t kChunk = 1 << 16;
  const auto n_chunks = static_cast<int64_t>((elems.size() + kChunk - 1) / kChunk);
  Bits largest = 0;
#pragma omp parallel for schedule(static) reduction(max : largest) if (n_chunks > 1)
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    const size_t first = static_cast<size_t>(chunk) * kChunk;
    const size_t count = std::min(kChunk, elems.size() - first);
    largest = std::max(largest, largest_magnitude<Layout>(elems.subspan(first, count)));
  }
  if (largest >= Layout::kLimit) return scan_non_finite<Layout>(elems);
  return {.amax = Layout::value(largest), .first_non_finite = std::nullopt};
}

}  // namespace

AmaxScan scan_amax(const TensorView& weight) {
  if (weight.device != nullptr) return cuda::scan_amax(weight);
  if (weight.dtype == DType::kBF16) return scan<Bf16Layout>(weight);
  if (weight.dtype == DType::kF16) return scan<Fp16Layout>(weight);
  VERNIER_CHECK(weight.dtype == DType::kF32);
  return scan<Fp32Layout>(weight);
}

}  // namespace vernier::formats
