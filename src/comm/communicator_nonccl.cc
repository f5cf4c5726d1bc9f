// A build without NCCL: matrices on devices go through the host's memory.
#include "comm/nccl_communicator.h"

namespace vernier::comm {

std::unique_ptr<Communicator> with_device(std::unique_ptr<Communicator> host, Device*) {
  return host;
}

}  // namespace vernier::comm
