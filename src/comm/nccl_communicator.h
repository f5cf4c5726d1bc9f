// Devices that talk to each other, beside hosts that do.
#pragma once

#include <memory>

#include "comm/communicator.h"

namespace vernier::comm {

// `host`, whose matrices on `device` go over NCCL, in the device's queue like any op: a call
// returns before its work is done. Called by all ranks of the group, each with a device of its own,
// which must outlive the result. `host` itself where the device is null (the host), the group has
// one rank or the build has no NCCL. Throws CommFault where NCCL fails.
std::unique_ptr<Communicator> with_device(std::unique_ptr<Communicator> host, Device* device);

}  // namespace vernier::comm
