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
  // `world` must outlive this and have as many ranks as the layout. `device`: this rank's own,
  // whose memory is then sent from device to device where this build can; null: through the host.
  Ranks(const Communicator& world, const Layout& layout, Device* device = nullptr);
  // In groups that somebody else made.
  struct Groups {
    std::unique_ptr<Communicator> world, stage, tensor, expert, pipeline;
  };
  Ranks(const Layout& layout, int64_t rank, Groups groups);

  const Layout& layout() const { return layout_; }
  const Place& place() const { return place_; }
  bool is_first_stage() const { return place_.pipeline.index == 0; }
  bool is_last_stage() const { return place_.pipeline.index + 1 == place_.pipeline.count; }

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
  std::unique_ptr<Communicator> own_world_;  // where world_ is not somebody else's
  const Communicator* world_;
  std::unique_ptr<Communicator> stage_, tensor_, expert_, pipeline_;
};

}  // namespace vernier::comm
