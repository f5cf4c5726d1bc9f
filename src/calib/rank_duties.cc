#include "calib/rank_duties.h"

namespace vernier::calib {

std::vector<const model::Module*> modules_to_pack(const model::ModuleTree& tree, int layer,
                                                  const comm::Ranks& ranks) {
  const comm::Place& place = ranks.place();
  const int64_t n_copies = ranks.layout().stage_size() / ranks.layout().ep();
  const comm::Range experts = comm::part_of(tree.n_experts(layer), place.expert);
  std::vector<const model::Module*> own;
  int64_t turn = 0;
  for (const model::Module* module : tree.modules_of(layer)) {
    const bool is_own = module->expert < 0 ? turn++ % ranks.stage().size() == ranks.stage().rank()
                                           : experts.holds(module->expert) &&
                                                 module->expert % n_copies == place.expert_copy;
    if (is_own) own.push_back(module);
  }
  return own;
}

}  // namespace vernier::calib
