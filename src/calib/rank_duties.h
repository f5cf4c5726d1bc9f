// Who packs and writes what: every module is one rank's, whole, whatever the shares that ranks run
// it in. So a weight's bytes cannot depend on the layout.
#pragma once

#include <vector>

#include "comm/ranks.h"
#include "model/module.h"

namespace vernier::calib {

// Modules of a layer (-1: those outside the stack) that this rank of the layer's stage packs: of
// the routed experts that it runs, those whose turn it is among their copies; the others in turn.
std::vector<const model::Module*> modules_to_pack(const model::ModuleTree& tree, int layer,
                                                  const comm::Ranks& ranks);

}  // namespace vernier::calib
