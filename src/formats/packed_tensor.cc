// Packed weights: allocation, views, sizes.
#include "base/check.h"
#include "formats/format.h"

namespace vernier::formats {

PackedView PackedTensor::view() const {
  PackedView view{.format = format, .n = n, .k = k, .planes = {}};
  for (size_t role = 0; role < planes.size(); ++role) view.planes[role] = planes[role].view();
  return view;
}

int64_t packed_bytes(const Format& format, int64_t n, int64_t k) {
  int64_t bytes = 0;
  for (const PlaneSpec& plane : format.planes) bytes += n_bytes(plane.dtype, plane.shape(n, k));
  return bytes;
}

PackedTensor make_packed(const Format& format, int64_t n, int64_t k, Device* device) {
  VERNIER_CHECK(n >= 0 && k >= 0 && k % format.k_multiple == 0);
  PackedTensor packed{.format = &format, .n = n, .k = k, .planes = {}};
  for (const PlaneSpec& plane : format.planes) {
    Device* where = plane.role == PlaneRole::kGlobalScale ? nullptr : device;
    packed.plane(plane.role) = Tensor(plane.dtype, plane.shape(n, k), where);
  }
  return packed;
}

PackedTensor encode_weight(const Format& format, const TensorView& weight,
                           const EncodeOptions& options) {
  return weight.device == nullptr ? format.encode(weight, options)
                                  : format.device_codec->encode(weight, options);
}

PackedTensor to_host(const PackedView& packed) {
  PackedTensor copy{.format = packed.format, .n = packed.n, .k = packed.k, .planes = {}};
  for (const PlaneSpec& plane : packed.format->planes) {
    copy.plane(plane.role) = to_device(packed.plane(plane.role), nullptr);
  }
  return copy;
}

}  // namespace vernier::formats
