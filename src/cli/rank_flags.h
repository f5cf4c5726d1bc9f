// The flags that lay ranks out, and what ranks of one machine share.
#pragma once

#include <cstdint>
#include <memory>

#include "cli/app_fwd.h"
#include "cli/console.h"
#include "cli/device_flags.h"
#include "comm/ranks.h"
#include "io/json_fwd.h"
#include "runtime/layer_stream.h"

namespace vernier::cli {

struct RankFlags {
  int64_t tp = 1, pp = 1, ep = 1;
};

void declare_rank_flags(CLI::App& app, RankFlags& flags);

// Where this rank computes, and with whom.
struct RankSetup {
  comm::Share of_host;             // this rank among those of its machine
  std::unique_ptr<Device> device;  // null: the host computes
  comm::Ranks ranks;
};

// Opens this rank's device and lays the ranks out, which it says where there are several. Throws
// InvalidArgument for a layout that the number of ranks does not fit, and what open_device() does.
RankSetup set_up_ranks(const RankFlags& flags, const DeviceFlags& device_flags,
                       const comm::Communicator& world, Console& console);

// What of a layout decides output bytes: null for one rank.
io::Json layout_identity(const comm::Ranks& ranks);

// This rank's part of `windows`. Throws InvalidArgument where a replica would have none.
runtime::Windows windows_of_replica(const runtime::Windows& windows, const comm::Ranks& ranks);

// What make(resume) makes of files that all ranks write to: the first rank creates them, then all
// open them.
template <class Make>
auto make_on_all(const comm::Communicator& world, bool is_resumed, const Make& make) {
  if (world.size() == 1) return make(is_resumed);
  if (world.rank() == 0) make(is_resumed);
  world.barrier();
  return make(true);
}

}  // namespace vernier::cli
