// Boxes of row-major tensors: what a slice holds of the whole, and how its bytes are moved.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace vernier::exporting {

// The elements of a tensor from `start` on, `shape` of them; both have an index a dimension.
struct Box {
  std::vector<int64_t> start;
  Shape shape;

  bool operator==(const Box&) const = default;
};

// All of a tensor.
Box whole_box(const Shape& shape);
// Whether the box lies in a tensor of this shape. Safe for any numbers that are not negative.
bool is_within(const Box& box, const Shape& shape);
// Absent where the boxes share no element. REQUIRES: as many dimensions.
std::optional<Box> intersection(const Box& left, const Box& right);
// The box, as seen from a tensor in which `from` is at `to`.
Box moved(Box box, const std::vector<int64_t>& from, const std::vector<int64_t>& to);

// A box's bytes where they follow one another without a gap, else absent. REQUIRES: a box within.
std::optional<std::span<const std::byte>> contiguous_bytes(const TensorView& tensor,
                                                           const Box& box);
// From the box's first byte to its last. REQUIRES: a box within, with elements of whole bytes or
// all of the tensor.
std::span<const std::byte> spanned_bytes(const TensorView& tensor, const Box& box);
// Copies a box to where `to_start` is in another tensor. REQUIRES: one element type, of whole
// bytes; boxes within both, in host memory.
void copy_box(const TensorView& from, const Box& box, Tensor& to,
              const std::vector<int64_t>& to_start);

}  // namespace vernier::exporting
