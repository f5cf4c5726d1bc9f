// The part of a network of this family that one of several ranks runs.
#pragma once

#include "comm/layout.h"
#include "model/arch/nemotron_h/config.h"
#include "model/module.h"

namespace vernier::model::nemotron_h {

// Throws InvalidArgument naming flag and rule for a layout that this network, whose tree is `tree`,
// cannot be cut by.
void check_layout(const Config& config, const ModuleTree& tree, const comm::Layout& layout);

// The configuration of a tensor rank's share of every layer: fewer heads, groups and channels. The
// routed experts keep their number: each is whole, on one rank of several.
Config share_of(const Config& config, comm::Share tensor);

}  // namespace vernier::model::nemotron_h
