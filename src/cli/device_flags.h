// The flags that say where a command computes, the same for every command that runs a model.
#pragma once

#include <memory>
#include <string>

#include "cli/app_fwd.h"
#include "comm/host_share.h"
#include "model/model.h"
#include "runtime/memory_plan.h"
#include "tensor/device.h"

namespace vernier::cli {

struct DeviceFlags {
  std::string device = "auto";
  std::string compute_dtype = "bfloat16";
  std::string max_device_memory;  // empty: 90 % of what is free
};

void declare_device_flags(CLI::App& app, DeviceFlags& flags);

// The device that the flags ask for; null: the host. Throws InvalidArgument naming the flag,
// NotFound without such a device, Unsupported in a build without CUDA.
// Ranks of one machine take its devices in turn.
std::unique_ptr<Device> open_device(const DeviceFlags& flags, comm::Share of_host = {});

// Ranks of one machine share its memory.
runtime::MemoryLimits memory_limits(const DeviceFlags& flags, Device* device,
                                    const std::string& max_memory, comm::Share of_host = {});

// The same weights where they are to run.
std::shared_ptr<const model::WeightSource> weights_on(
    Device* device, std::shared_ptr<const model::WeightSource> weights);
// This rank's share of them.
std::shared_ptr<const model::WeightSource> share_on(
    Device* device, std::shared_ptr<const model::WeightSource> weights, const comm::Ranks& ranks);

// "cpu", or the device's name and type of activations.
std::string describe_device(const Device* device);

}  // namespace vernier::cli
