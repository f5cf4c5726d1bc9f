#include "tensor/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>

#include "base/error.h"

namespace vernier {

int64_t n_elems(const Shape& shape) {
  int64_t product = 1;
  for (int64_t dim : shape) product *= dim;
  return product;
}

int64_t n_bytes(DType dtype, const Shape& shape) {
  return (n_elems(shape) * dtype_info(dtype).bits + 7) / 8;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

namespace {

std::byte* allocate_on_host(const TensorView& view) {
  constexpr int64_t kAlignment = 64;
  const int64_t size = std::max<int64_t>(view.size_bytes(), 1);
  const int64_t padded = (size + kAlignment - 1) / kAlignment * kAlignment;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, padded));
  if (data != nullptr) return data;
  throw Error(ErrorKind::kOutOfMemory, fmt::format("cannot allocate {} bytes for a tensor {}",
                                                   padded, to_string(view.shape)));
}

}  // namespace

Tensor::Tensor(DType dtype, Shape shape, Device* device) {
  view_ = {dtype, std::move(shape), nullptr, device};
  std::byte* data =
      device == nullptr ? allocate_on_host(view_) : device->allocate(view_.size_bytes());
  data_ = {data, Free{device}};
  view_.data = data;
}

Tensor Tensor::adopt(DType dtype, Shape shape, Device* device, std::byte* data) {
  Tensor tensor;
  tensor.view_ = {dtype, std::move(shape), data, device};
  tensor.data_ = {data, Free{device}};
  return tensor;
}

void Tensor::Free::operator()(std::byte* data) const {
  if (device == nullptr) {
    std::free(data);
  } else {
    device->free(data);
  }
}

Tensor to_device(const TensorView& tensor, Device* device) {
  Tensor copy(tensor.dtype, tensor.shape, device);
  copy_bytes(copy.data(), device, tensor.data, tensor.device, tensor.size_bytes());
  return copy;
}

}  // namespace vernier
