#include "export/tensor_box.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace vernier::exporting {
namespace {

int64_t elem_bytes(DType dtype) {
  VERNIER_CHECK(dtype_info(dtype).bits % 8 == 0);
  return dtype_info(dtype).bits / 8;
}

// Bytes from one index of each dimension to the next.
std::vector<int64_t> strides_of(const TensorView& tensor) {
  std::vector<int64_t> strides(tensor.shape.size());
  int64_t stride = elem_bytes(tensor.dtype);
  for (size_t dim = strides.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= tensor.shape[dim];
  }
  return strides;
}

int64_t offset_of(const std::vector<int64_t>& index, const std::vector<int64_t>& strides) {
  int64_t offset = 0;
  for (size_t dim = 0; dim < index.size(); ++dim) offset += index[dim] * strides[dim];
  return offset;
}

// The first dimension after which the box takes all of the tensor: runs of it lie without a gap.
size_t run_dim(const Shape& box, const Shape& tensor) {
  size_t dim = box.size();
  while (dim > 1 && box[dim - 1] == tensor[dim - 1]) --dim;
  return dim == 0 ? 0 : dim - 1;
}

struct Copy {
  const Shape& shape;
  std::vector<int64_t> from_strides, to_strides;
  size_t run_dim;
  int64_t run_bytes;

  void run(size_t dim, const std::byte* from, std::byte* to) const {
    if (dim == run_dim) {
      std::memcpy(to, from, static_cast<size_t>(run_bytes));
      return;
    }
    for (int64_t index = 0; index < shape[dim]; ++index) {
      run(dim + 1, from + index * from_strides[dim], to + index * to_strides[dim]);
    }
  }
};

}  // namespace

Box whole_box(const Shape& shape) { return {std::vector<int64_t>(shape.size(), 0), shape}; }

bool is_within(const Box& box, const Shape& shape) {
  if (box.start.size() != shape.size() || box.shape.size() != shape.size()) return false;
  for (size_t dim = 0; dim < shape.size(); ++dim) {
    if (box.shape[dim] > shape[dim] || box.start[dim] > shape[dim] - box.shape[dim]) return false;
  }
  return true;
}

std::optional<Box> intersection(const Box& left, const Box& right) {
  Box common = left;
  for (size_t dim = 0; dim < left.shape.size(); ++dim) {
    const int64_t end =
        std::min(left.start[dim] + left.shape[dim], right.start[dim] + right.shape[dim]);
    common.start[dim] = std::max(left.start[dim], right.start[dim]);
    common.shape[dim] = end - common.start[dim];
    if (common.shape[dim] <= 0) return {};
  }
  return common;
}

Box moved(Box box, const std::vector<int64_t>& from, const std::vector<int64_t>& to) {
  for (size_t dim = 0; dim < box.start.size(); ++dim) box.start[dim] += to[dim] - from[dim];
  return box;
}

std::optional<std::span<const std::byte>> contiguous_bytes(const TensorView& tensor,
                                                           const Box& box) {
  if (box.shape == tensor.shape) return tensor.bytes();
  if (dtype_info(tensor.dtype).bits % 8 != 0) return {};
  const size_t run = run_dim(box.shape, tensor.shape);
  const auto is_one = [](int64_t length) { return length == 1; };
  if (!std::all_of(box.shape.begin(), box.shape.begin() + run, is_one)) return {};
  return spanned_bytes(tensor, box);
}

std::span<const std::byte> spanned_bytes(const TensorView& tensor, const Box& box) {
  if (box.shape == tensor.shape) return tensor.bytes();
  if (n_elems(box.shape) == 0) return {};
  const std::vector<int64_t> strides = strides_of(tensor);
  std::vector<int64_t> last = box.start;
  for (size_t dim = 0; dim < last.size(); ++dim) last[dim] += box.shape[dim] - 1;
  const int64_t begin = offset_of(box.start, strides);
  const int64_t end = offset_of(last, strides) + elem_bytes(tensor.dtype);
  return {tensor.data + begin, static_cast<size_t>(end - begin)};
}

void copy_box(const TensorView& from, const Box& box, Tensor& to,
              const std::vector<int64_t>& to_start) {
  VERNIER_CHECK(from.dtype == to.dtype() && is_within(box, from.shape) &&
                is_within({to_start, box.shape}, to.shape()));
  if (n_elems(box.shape) == 0) return;
  const size_t run = std::max(run_dim(box.shape, from.shape), run_dim(box.shape, to.shape()));
  int64_t run_bytes = elem_bytes(from.dtype);
  for (size_t dim = run; dim < box.shape.size(); ++dim) run_bytes *= box.shape[dim];
  const Copy copy{box.shape, strides_of(from), strides_of(to.view()), run, run_bytes};
  copy.run(0, from.data + offset_of(box.start, copy.from_strides),
           to.data() + offset_of(to_start, copy.to_strides));
}

}  // namespace vernier::exporting
