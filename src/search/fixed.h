// A recipe as restrictions of a search: what it quantizes keeps its decision.
#pragma once

#include <vector>

#include "quant/plan.h"
#include "search/allocation.h"

namespace vernier::search {

// A list of one candidate for every module that the plan quantizes. Throws InvalidArgument for a
// decision that is none of `candidates`.
std::vector<CandidateList> fixed_lists(const quant::QuantPlan& plan,
                                       const std::vector<const Candidate*>& candidates,
                                       const model::ModuleTree& tree);

}  // namespace vernier::search
