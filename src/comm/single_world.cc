#include "comm/single_world.h"

#include <cstdlib>

namespace vernier::comm {
namespace {

class SingleWorld : public World {
 public:
  const Communicator& all() const override { return *self_; }
  bool speaks_for_failure(int) override { return true; }
  void end(int status) override { std::exit(status); }

 private:
  std::unique_ptr<Communicator> self_ = alone();
};

}  // namespace

std::unique_ptr<World> single_world() { return std::make_unique<SingleWorld>(); }

}  // namespace vernier::comm
