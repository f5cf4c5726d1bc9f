#include "comm/ranks.h"

#include "base/check.h"

namespace vernier::comm {

Ranks::Ranks()
    : place_(layout_.place(0)),
      self_(alone()),
      world_(self_.get()),
      stage_(alone()),
      tensor_(alone()),
      expert_(alone()),
      pipeline_(alone()) {}

// Colors number the groups of a kind.
Ranks::Ranks(const Communicator& world, const Layout& layout)
    : layout_(layout), place_(layout.place(world.rank())), world_(&world) {
  VERNIER_CHECK(world.size() == layout.world());
  const int64_t stage = place_.pipeline.index;
  const int64_t n_copies = layout.stage_size() / layout.ep();
  stage_ = world.split(stage);
  tensor_ = world.split(stage * layout.dp() + place_.data.index);
  expert_ = world.split(stage * n_copies + place_.expert_copy);
  pipeline_ = world.split(world.rank() % layout.stage_size());
}

}  // namespace vernier::comm
