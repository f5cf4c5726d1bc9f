// The one table of the family's checkpoint names: which modules a stack has, what each owns, with
// which shapes, and how it is cut over ranks. The module tree is this table written out for a
// configuration.
#pragma once

#include "model/arch/nemotron_h/config.h"
#include "model/module.h"

namespace vernier::model::nemotron_h {

ModuleTree build_module_tree(const Config& config);

}  // namespace vernier::model::nemotron_h
