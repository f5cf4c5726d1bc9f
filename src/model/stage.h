// Which layers a pipeline stage runs.
#pragma once

#include "comm/layout.h"
#include "model/model.h"

namespace vernier::model {

// Stages cut the stack where their weights are as equal as they can be, each with a layer at least.
// REQUIRES: no more stages than layers.
comm::Range stage_layers(const ModuleTree& tree, comm::Share pipeline);

// Those of this rank.
comm::Range layers_here(const Model& model);

// Whether this rank runs the module, or a share of it: one of its layers', and no other ranks'
// expert. Of those outside the stack all are, since ends of the network may need either.
bool is_here(const Model& model, const Module& module);

}  // namespace vernier::model
