// One rank, its place in the layout, and the groups that it belongs to.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "comm/layout.h"

namespace vernier::comm {

class Ranks {
 public:
  // One rank, which talks to nobody.
  Ranks();
  // `world` must outlive this and have as many ranks as the layout.
  Ranks(const Communicator& world, const Layout& layout);

  const Layout& layout() const { return layout_; }
  const Place& place() const { return place_; }

  const Communicator& world() const { return *world_; }
  // Ranks that hold the same layers, tensor ranks of a replica beside each other.
  const Communicator& stage() const { return *stage_; }
  // Ranks that hold a layer's parts for the same samples: rank() is the share's index.
  const Communicator& tensor() const { return *tensor_; }
  // Ranks among which one copy of a layer's experts is spread: rank() is the share's index.
  const Communicator& expert() const { return *expert_; }
  // The same part of every stage: rank() is the stage.
  const Communicator& pipeline() const { return *pipeline_; }

 private:
  Layout layout_;
  Place place_;
  std::unique_ptr<Communicator> self_;
  const Communicator* world_;
  std::unique_ptr<Communicator> stage_, tensor_, expert_, pipeline_;
};

}  // namespace vernier::comm
