// In which file of a sharded checkpoint a tensor lies: files are named after the ranks of a layout,
// whoever writes them.
#pragma once

#include <vector>

#include "comm/layout.h"
#include "export/slices.h"
#include "model/module.h"

namespace vernier::exporting {

// The slices of every tensor, in the order of tensor ranks: docs/sharded_checkpoint.md. REQUIRES:
// no more stages than layers.
std::vector<SlicedTensor> cut_over_ranks(const std::vector<OutputTensor>& tensors,
                                         const model::ModuleTree& tree, const comm::Layout& layout);

}  // namespace vernier::exporting
