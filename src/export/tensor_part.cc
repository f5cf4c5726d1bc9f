#include "export/tensor_part.h"

#include <algorithm>

#include "base/check.h"

namespace vernier::exporting {
namespace {

TensorPart make_part(const model::Cut& cut, const Shape& shape,
                     const std::vector<comm::Range>& kept) {
  VERNIER_CHECK(cut.is_cut());
  TensorPart part{cut.kind == model::CutKind::kRows ? 0 : shape.size() - 1, {}};
  for (const comm::Range& range : kept) {
    if (range.size() == 0) continue;
    VERNIER_CHECK(range.end <= shape.at(part.dim));
    if (!part.ranges.empty() && part.ranges.back().end == range.begin) {
      part.ranges.back().end = range.end;
    } else {
      part.ranges.push_back(range);
    }
  }
  return part;
}

}  // namespace

TensorPart part_of_cut(const model::Cut& cut, const Shape& shape, comm::Share share) {
  return make_part(cut, shape, kept_ranges(cut, share));
}

TensorPart stored_part(const model::Cut& cut, const Shape& shape, comm::Share share) {
  std::vector<comm::Range> kept = kept_ranges(cut, share);
  if (share.index > 0) {
    const std::vector<comm::Range> before = kept_ranges(cut, {share.index - 1, share.count});
    std::erase_if(kept, [&](const comm::Range& range) {
      return std::ranges::find(before, range) != before.end();
    });
  }
  return make_part(cut, shape, kept);
}

Shape shape_of(const TensorPart& part, Shape whole) {
  whole[part.dim] = 0;
  for (const comm::Range& range : part.ranges) whole[part.dim] += range.size();
  return whole;
}

std::vector<PartBlock> blocks_of(const TensorPart& part, const Shape& whole) {
  std::vector<PartBlock> blocks;
  std::vector<int64_t> in_part(whole.size(), 0);
  for (const comm::Range& range : part.ranges) {
    Box box = whole_box(whole);
    box.start[part.dim] = range.begin;
    box.shape[part.dim] = range.size();
    blocks.push_back({std::move(box), in_part});
    in_part[part.dim] += range.size();
  }
  return blocks;
}

}  // namespace vernier::exporting
