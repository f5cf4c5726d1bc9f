// Tensors in host or device memory: row-major, contiguous, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "tensor/device.h"
#include "tensor/dtype.h"

namespace vernier {

using Shape = std::vector<int64_t>;

int64_t n_elems(const Shape& shape);
// Bytes of a contiguous tensor; types narrower than a byte are packed.
int64_t n_bytes(DType dtype, const Shape& shape);
std::string to_string(const Shape& shape);  // "[4, 16]"

// Somebody else's tensor, read only. Cheap to copy; the owner (a mapped file, a Tensor) must
// outlive it.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  const std::byte* data = nullptr;
  Device* device = nullptr;  // where `data` points; null: host memory

  int64_t size() const { return n_elems(shape); }
  int64_t size_bytes() const { return n_bytes(dtype, shape); }
  std::span<const std::byte> bytes() const { return {data, static_cast<size_t>(size_bytes())}; }

  // The elements as T, which must have the element type's width. The data must be aligned for T.
  template <class T>
  std::span<const T> as() const {
    VERNIER_DCHECK(static_cast<int>(sizeof(T)) * 8 == dtype_info(dtype).bits);
    return {reinterpret_cast<const T*>(data), static_cast<size_t>(size())};
  }
};

// An owned tensor, aligned to 64 bytes, not initialized. Moves, does not copy.
class Tensor {
 public:
  Tensor() = default;
  // In host memory, or the device's, which must outlive it.
  Tensor(DType dtype, Shape shape, Device* device = nullptr);
  // Takes memory that `device` allocated.
  static Tensor adopt(DType dtype, Shape shape, Device* device, std::byte* data);

  DType dtype() const { return view_.dtype; }
  const Shape& shape() const { return view_.shape; }
  int64_t size() const { return view_.size(); }
  Device* device() const { return view_.device; }
  std::byte* data() { return data_.get(); }
  const TensorView& view() const { return view_; }

  template <class T>
  std::span<T> as() {
    const std::span<const T> elems = view_.as<T>();
    return {const_cast<T*>(elems.data()), elems.size()};
  }
  template <class T>
  std::span<const T> as() const {
    return view_.as<T>();
  }

 private:
  struct Free {
    Device* device;
    void operator()(std::byte* data) const;
  };
  std::unique_ptr<std::byte, Free> data_{nullptr, Free{nullptr}};
  TensorView view_;
};

// A copy in host (null) or device memory, from wherever the tensor is.
Tensor to_device(const TensorView& tensor, Device* device);

}  // namespace vernier
