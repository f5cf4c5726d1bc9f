#include "comm/ranks.h"

#include <utility>

#include "base/check.h"
#include "comm/nccl_communicator.h"

namespace vernier::comm {

Ranks::Ranks()
    : place_(layout_.place(0)),
      own_world_(alone()),
      world_(own_world_.get()),
      stage_(alone()),
      tensor_(alone()),
      expert_(alone()),
      pipeline_(alone()) {}

// Colors number the groups of a kind.
Ranks::Ranks(const Communicator& given, const Layout& layout, Device* device)
    : layout_(layout),
      place_(layout.place(given.rank())),
      own_world_(device == nullptr ? nullptr : with_device(given.split(0), device)),
      world_(device == nullptr ? &given : own_world_.get()) {
  VERNIER_CHECK(given.size() == layout.world());
  const Communicator& world = *world_;
  const int64_t stage = place_.pipeline.index;
  const int64_t n_copies = layout.stage_size() / layout.ep();
  stage_ = world.split(stage);
  tensor_ = world.split(stage * layout.dp() + place_.data.index);
  expert_ = world.split(stage * n_copies + place_.expert_copy);
  pipeline_ = world.split(world.rank() % layout.stage_size());
}

Ranks::Ranks(const Layout& layout, int64_t rank, Groups groups)
    : layout_(layout),
      place_(layout.place(rank)),
      own_world_(std::move(groups.world)),
      world_(own_world_.get()),
      stage_(std::move(groups.stage)),
      tensor_(std::move(groups.tensor)),
      expert_(std::move(groups.expert)),
      pipeline_(std::move(groups.pipeline)) {}

}  // namespace vernier::comm
