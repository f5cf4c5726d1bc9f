// What a layer showed to all ranks of its pipeline stage.
#pragma once

#include "calib/observer.h"
#include "comm/communicator.h"

namespace vernier::calib {

// The largest of every maximum and the sum of the experts' tokens, the same on all ranks, which all
// call this at the same time.
LayerStatistics statistics_of_stage(const LayerStatistics& own, const model::ModuleTree& tree,
                                    int layer, const comm::Communicator& stage);

}  // namespace vernier::calib
