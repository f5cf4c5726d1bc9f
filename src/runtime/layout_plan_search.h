// Every layout of some ranks that a network can be cut by, with what a job takes on it.
#pragma once

#include <string_view>
#include <vector>

#include "io/json_fwd.h"
#include "runtime/layout_plan.h"

namespace vernier::runtime {

// From what open_model() takes, no weights. Quickest first, those that do not fit included; a
// replica has a window at least. Layouts of several stages run batch by batch where a stage's
// weights fit, else layer by layer as all others. Throws what open_model() does.
std::vector<LayoutPlan> plan_layouts(const io::Json& config, std::string_view origin, int64_t world,
                                     const LayoutJob& job, const MachineRates& rates);

}  // namespace vernier::runtime
