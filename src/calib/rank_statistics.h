// What a layer showed to all ranks that ran a part of it.
#pragma once

#include "calib/observer.h"
#include "comm/communicator.h"

namespace vernier::calib {

// The largest of every maximum and the sum of the experts' tokens, the same on all ranks, which all
// call this at the same time. A rank of another stage has seen nothing.
LayerStatistics statistics_of_ranks(const LayerStatistics& own, const model::ModuleTree& tree,
                                    int layer, const comm::Communicator& ranks);

}  // namespace vernier::calib
