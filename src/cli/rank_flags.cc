#include "cli/rank_flags.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <utility>

#include "base/error.h"
#include "io/json.h"

namespace vernier::cli {

void declare_rank_flags(CLI::App& app, RankFlags& flags) {
  const auto add = [&](const char* name, int64_t& value, const char* help) {
    app.add_option(name, value, help)->capture_default_str();
  };
  add("--tp", flags.tp, "tensor-parallel ranks: heads and channels of a layer are shared out");
  add("--pp", flags.pp, "pipeline stages: layers are shared out");
  add("--ep", flags.ep, "ranks that a layer's experts are shared out to; divides tp x dp");
}

RankSetup set_up_ranks(const RankFlags& flags, const DeviceFlags& device_flags,
                       const comm::Communicator& world, Console& console) {
  const comm::Layout layout(world.size(), flags.tp, flags.pp, flags.ep);
  if (world.size() > 1) console.print(layout.describe());
  const comm::Share of_host = comm::share_of_host(world);
  std::unique_ptr<Device> device = open_device(device_flags, of_host);
  // Devices talk by themselves only where no two ranks share one.
  Device* own_device = of_host.count <= n_devices() ? device.get() : nullptr;
  return {of_host, std::move(device), comm::Ranks(world, layout, own_device)};
}

io::Json layout_identity(const comm::Ranks& ranks) {
  const comm::Layout& layout = ranks.layout();
  if (layout.world() == 1) return nullptr;
  return {layout.tp(), layout.pp(), layout.ep(), layout.dp()};
}

runtime::Windows windows_of_replica(const runtime::Windows& windows, const comm::Ranks& ranks) {
  const int64_t n_replicas = ranks.layout().dp();
  if (std::ssize(windows) < n_replicas) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{} samples for {} replicas of the model, expected one each at least: "
                            "give more text or fewer ranks",
                            windows.size(), n_replicas));
  }
  const comm::Range own = comm::part_of(std::ssize(windows), ranks.place().data);
  return {windows.begin() + own.begin, windows.begin() + own.end};
}

}  // namespace vernier::cli
