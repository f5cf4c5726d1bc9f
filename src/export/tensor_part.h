// What a tensor rank holds of a tensor: ranges of the dimension by which it is cut, one after
// another.
#pragma once

#include <cstddef>
#include <vector>

#include "export/tensor_box.h"
#include "model/cut.h"

namespace vernier::exporting {

struct TensorPart {
  size_t dim = 0;
  std::vector<comm::Range> ranges;  // in order, none empty; neighbours are one
};

// REQUIRES: a cut by rows or columns, of a tensor of this shape.
TensorPart part_of_cut(const model::Cut& cut, const Shape& shape, comm::Share share);
// The part without what the share before holds too: ranks that share a head store it once.
TensorPart stored_part(const model::Cut& cut, const Shape& shape, comm::Share share);
// The shape of a part as a tensor of its own.
Shape shape_of(const TensorPart& part, Shape whole);

// A range of a part: where it lies in the whole, and where in the part.
struct PartBlock {
  Box in_whole;
  std::vector<int64_t> in_part;
};
std::vector<PartBlock> blocks_of(const TensorPart& part, const Shape& whole);

}  // namespace vernier::exporting
