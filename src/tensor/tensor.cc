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

Tensor::Tensor(DType dtype, Shape shape) {
  view_ = {dtype, std::move(shape), nullptr};
  constexpr int64_t kAlignment = 64;
  const int64_t size = std::max<int64_t>(view_.size_bytes(), 1);
  const int64_t padded = (size + kAlignment - 1) / kAlignment * kAlignment;
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, padded)));
  if (data_ == nullptr) {
    throw Error(ErrorKind::kOutOfMemory, fmt::format("cannot allocate {} bytes for a tensor {}",
                                                     padded, to_string(view_.shape)));
  }
  view_.data = data_.get();
}

void Tensor::Free::operator()(std::byte* data) const { std::free(data); }

}  // namespace vernier
