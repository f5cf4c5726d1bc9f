// The one table of the family's checkpoint names: which modules a stack has, what each owns, with
// which shapes, and how it is cut over ranks. The module tree is this table written out for a
// configuration.
#pragma once

#include "model/arch/nemotron_h/config.h"
#include "model/module.h"

namespace vernier::model::nemotron_h {

// How the hidden channels of an MLP are shared out: in blocks of 16 where they fill whole ones, so
// that its second weight is never cut inside a block of a format.
Cut mlp_cut(CutKind kind, int64_t width);

ModuleTree build_module_tree(const Config& config);

}  // namespace vernier::model::nemotron_h
