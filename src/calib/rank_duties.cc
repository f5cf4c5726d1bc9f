#include "calib/rank_duties.h"

#include <algorithm>

namespace vernier::calib {

std::vector<const model::Module*> modules_to_pack(const std::vector<const model::Module*>& modules,
                                                  const comm::Ranks& ranks) {
  const comm::Place& place = ranks.place();
  int64_t n_experts = 0;
  for (const model::Module* module : modules) {
    n_experts = std::max<int64_t>(n_experts, module->expert + 1);
  }
  const int64_t n_copies = ranks.layout().stage_size() / ranks.layout().ep();
  const comm::Range experts = comm::part_of(n_experts, place.expert);
  std::vector<const model::Module*> own;
  int64_t turn = 0;
  for (const model::Module* module : modules) {
    const bool is_own = module->expert < 0 ? turn++ % ranks.stage().size() == ranks.stage().rank()
                                           : experts.holds(module->expert) &&
                                                 module->expert % n_copies == place.expert_copy;
    if (is_own) own.push_back(module);
  }
  return own;
}

}  // namespace vernier::calib
