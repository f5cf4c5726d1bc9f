#include "cli/device_flags.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <charconv>

#include "base/error.h"
#include "cli/byte_size.h"
#include "model/stored_model.h"
#include "runtime/device_weights.h"

namespace vernier::cli {
namespace {

// The number after "cuda:"; 0 for "cuda".
int device_index(const std::string& device) {
  constexpr std::string_view kPrefix = "cuda";
  std::string_view text = device;
  int index = 0;
  bool is_valid = text.starts_with(kPrefix);
  if (is_valid && text.size() > kPrefix.size()) {
    text.remove_prefix(kPrefix.size() + 1);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
    is_valid = device[kPrefix.size()] == ':' && error == std::errc() &&
               end == text.data() + text.size() && index >= 0;
  }
  if (is_valid) return index;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--device: '{}', expected auto, cpu, cuda or cuda:N", device));
}

DType parse_compute_dtype(const std::string& name) {
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float32") return DType::kF32;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--compute-dtype: '{}', expected bfloat16 or float32", name));
}

int64_t device_bytes(const DeviceFlags& flags) {
  if (flags.max_device_memory.empty()) return 0;
  return parse_byte_size("--max-device-memory", flags.max_device_memory);
}

}  // namespace

void declare_device_flags(CLI::App& app, DeviceFlags& flags) {
  app.add_option("--device", flags.device,
                 "where to compute: cpu, cuda, cuda:N; auto takes cuda where there is one")
      ->capture_default_str();
  app.add_option(
         "--compute-dtype", flags.compute_dtype,
         "activations on a device: bfloat16 or float32 (no TF32); a cpu computes in float32")
      ->capture_default_str();
  app.add_option("--max-device-memory", flags.max_device_memory,
                 "device memory the job may allocate (24GB) [90 % of what is free]");
}

std::unique_ptr<Device> open_device(const DeviceFlags& flags, comm::Share of_host) {
  const DType compute_dtype = parse_compute_dtype(flags.compute_dtype);
  const int64_t max_bytes = device_bytes(flags);
  const bool is_host = flags.device == "cpu" || (flags.device == "auto" && n_devices() == 0);
  if (is_host) return nullptr;
  const bool is_named = flags.device.find(':') != std::string::npos;
  const int index = is_named || n_devices() == 0 ? device_index(flags.device)
                                                 : static_cast<int>(of_host.index % n_devices());
  return vernier::open_device(
      {.index = index, .compute_dtype = compute_dtype, .max_bytes = max_bytes});
}

runtime::MemoryLimits memory_limits(const DeviceFlags& flags, Device* device,
                                    const std::string& max_memory, comm::Share of_host) {
  return {.host_bytes = max_memory.empty() ? runtime::host_limit({}) / of_host.count
                                           : parse_byte_size("--max-memory", max_memory),
          .device = device,
          .device_bytes = device_bytes(flags)};
}

std::shared_ptr<const model::WeightSource> weights_on(
    Device* device, std::shared_ptr<const model::WeightSource> weights) {
  if (device == nullptr) return weights;
  return std::make_shared<runtime::DeviceWeights>(std::move(weights), *device);
}

std::shared_ptr<const model::WeightSource> share_on(
    Device* device, std::shared_ptr<const model::WeightSource> weights, const comm::Ranks& ranks) {
  return weights_on(device, model::share_of_weights(std::move(weights), ranks));
}

std::string describe_device(const Device* device) {
  if (device == nullptr) return "cpu";
  return fmt::format("{}, {}", device->name(),
                     device->compute_dtype() == DType::kBF16 ? "bfloat16" : "float32");
}

}  // namespace vernier::cli
