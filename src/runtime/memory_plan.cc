#include "runtime/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "base/error.h"
#include "kernels/decode_tile.h"
#include "model/layers/residual_layer.h"

namespace vernier::runtime {
namespace {

// A batch has about this many tokens: enough for the products of small experts to run well.
constexpr int64_t kBatchTokens = 16384;
constexpr int64_t kFloatBytes = 4;

struct WeightSizes {
  int64_t largest_layer_bytes = 0;
  int64_t largest_pair_bytes = 0;  // linears of a layer and the next
  int64_t largest_tensor_bytes = 0;
  int64_t widest_row = 0;  // the widest activation any linear reads or writes, in elements
};

WeightSizes measure_weights(const model::ModuleTree& tree) {
  WeightSizes sizes;
  int64_t previous_bytes = 0;  // of the layer before's linears
  for (size_t layer = 0; layer < tree.layers().size(); ++layer) {
    int64_t layer_bytes = 0;
    int64_t linear_bytes = 0;
    for (const model::Module* module : tree.modules_of(static_cast<int>(layer))) {
      for (const model::TensorSpec& spec : module->tensors) {
        layer_bytes += n_bytes(DType::kBF16, spec.shape);
      }
      if (module->kind == model::ModuleKind::kLinear) {
        linear_bytes += n_bytes(DType::kBF16, {module->n, module->k});
      }
    }
    sizes.largest_layer_bytes = std::max(sizes.largest_layer_bytes, layer_bytes);
    sizes.largest_pair_bytes = std::max(sizes.largest_pair_bytes, previous_bytes + linear_bytes);
    previous_bytes = linear_bytes;
  }
  for (const model::Module& module : tree.modules()) {
    if (module.has_matrix()) {
      sizes.largest_tensor_bytes =
          std::max(sizes.largest_tensor_bytes, n_bytes(DType::kBF16, {module.n, module.k}));
    }
    if (module.layer >= 0) sizes.widest_row = std::max({sizes.widest_row, module.n, module.k});
  }
  return sizes;
}

// The parts of a plan that a forward pass over all windows takes.
void plan_forward(const model::Model& model, const JobSize& job, const Device* device,
                  MemoryPlan& plan) {
  const int64_t n_tokens = job.n_windows * job.window_tokens;
  plan.batch_windows = std::clamp<int64_t>(kBatchTokens / job.window_tokens, 1, job.n_windows);
  plan.hidden_bytes = n_tokens * model.hidden_size() * kFloatBytes * job.n_passes;
  plan.forward_flops = 2 * n_tokens * model.active_weights();
  for (size_t layer = 0; layer < model.tree().layers().size(); ++layer) {
    const int64_t window_bytes =
        model.state_bytes(static_cast<int>(layer), job.window_tokens, device);
    plan.state_bytes = std::max(plan.state_bytes, plan.batch_windows * window_bytes);
  }
}

[[noreturn]] void refuse(const char* what, int64_t needed, int64_t limit, const char* flag) {
  throw Error(ErrorKind::kOutOfMemory,
              fmt::format("the job needs {} bytes of {}, {} are available to it; use shorter "
                          "sequences (--calib-seq-length) or raise {}",
                          needed, what, limit, flag));
}

// Packed planes of the largest tensor while they are written: at most a byte for a weight of two.
int64_t packed_bytes(const WeightSizes& sizes) { return sizes.largest_tensor_bytes / 2; }

// The host computes: layers are mapped, all else is allocated.
void plan_host(const WeightSizes& sizes, const JobSize& job, int64_t limit, MemoryPlan& plan) {
  // Tokens of a batch that a layer works on at a time; 0 without a forward pass.
  const int64_t piece =
      std::min(model::piece_tokens(nullptr), plan.batch_windows * job.window_tokens);
  // Input, output and two intermediates of the widest linear.
  const int64_t scratch_bytes = 4 * piece * sizes.widest_row * kFloatBytes;
  const int64_t fixed_bytes = plan.state_bytes + scratch_bytes + packed_bytes(sizes);
  if (fixed_bytes > limit)
    refuse("memory besides mapped files", fixed_bytes, limit, "--max-memory");
  const bool hidden_fits = fixed_bytes + plan.hidden_bytes <= limit;
  plan.placement = hidden_fits ? HiddenPlacement::kMemory : HiddenPlacement::kFile;
  plan.anonymous_bytes = fixed_bytes + (hidden_fits ? plan.hidden_bytes : 0);
}

// What a device's libraries and the order of its queue keep besides: the products' workspace, small
// tables, memory that is freed later than it is asked for again.
constexpr int64_t kDeviceReserveBytes = int64_t{256} << 20;

// The largest tile of decoded weights that a linear's product takes; none where all weights are of
// the compute type.
int64_t decoded_bytes(const model::Model& model, const JobSize& job, const Device* device) {
  const DType dtype = compute_dtype(device);
  if (!job.decodes_weights && dtype == DType::kBF16) return 0;
  int64_t largest = 0;
  for (const model::Module& module : model.tree().modules()) {
    if (module.kind != model::ModuleKind::kLinear) continue;
    largest = std::max(largest, kernels::decode_tile_bytes(module.n, module.k, dtype));
  }
  return largest;
}

DevicePlan device_needs(const model::Model& model, const WeightSizes& sizes, const JobSize& job,
                        const Device* device, const MemoryPlan& plan) {
  DevicePlan needs;
  const int64_t edge_bytes =
      std::max(n_bytes(DType::kBF16, {model.embedding().n, model.embedding().k}),
               n_bytes(DType::kBF16, {model.head().n, model.head().k}));
  // Compared models keep their heads.
  const int64_t head_bytes = job.n_passes > 1 ? job.n_passes * edge_bytes : 0;
  needs.weight_bytes = std::max(sizes.largest_pair_bytes, edge_bytes) + head_bytes;
  needs.state_bytes = plan.state_bytes;
  int64_t layer_bytes = packed_bytes(sizes);
  const int64_t batch_tokens = plan.batch_windows * job.window_tokens;
  for (size_t layer = 0; batch_tokens > 0 && layer < model.tree().layers().size(); ++layer) {
    layer_bytes =
        std::max(layer_bytes, model.scratch_bytes(static_cast<int>(layer), batch_tokens, device));
  }
  const int64_t tile_bytes = batch_tokens > 0 ? decoded_bytes(model, job, device) : 0;
  needs.scratch_bytes = layer_bytes + tile_bytes + kDeviceReserveBytes;
  needs.total_bytes = needs.weight_bytes + needs.state_bytes + needs.scratch_bytes;
  return needs;
}

// A device computes: hidden states stay there if they fit, else in page-locked memory, else in a
// file, of which a batch at a time is on the device.
void plan_device(const model::Model& model, const WeightSizes& sizes, const JobSize& job,
                 const MemoryLimits& limits, MemoryPlan& plan) {
  const int64_t limit = device_limit(limits);
  plan.device = device_needs(model, sizes, job, limits.device, plan);
  const int64_t hidden_rows = job.n_windows * job.n_passes;
  const int64_t batch_hidden =
      hidden_rows == 0 ? 0 : plan.hidden_bytes / hidden_rows * plan.batch_windows;
  const int64_t least = plan.device.total_bytes + batch_hidden;
  if (least > limit) refuse("device memory", least, limit, "--max-device-memory");

  plan.anonymous_bytes = packed_bytes(sizes);
  if (plan.device.total_bytes + plan.hidden_bytes <= limit) {
    plan.placement = HiddenPlacement::kDevice;
    plan.device.hidden_bytes = plan.hidden_bytes;
  } else {
    plan.device.hidden_bytes = batch_hidden;
    const bool fits_host = plan.anonymous_bytes + plan.hidden_bytes <= host_limit(limits);
    plan.placement = fits_host ? HiddenPlacement::kMemory : HiddenPlacement::kFile;
    if (fits_host) plan.anonymous_bytes += plan.hidden_bytes;
  }
  plan.device.total_bytes += plan.device.hidden_bytes;
}

}  // namespace

int64_t host_limit(const MemoryLimits& limits) {
  return limits.host_bytes > 0 ? limits.host_bytes : available_memory_bytes() * 6 / 10;
}

int64_t device_limit(const MemoryLimits& limits) {
  return limits.device_bytes > 0 ? limits.device_bytes
                                 : limits.device->memory().free_bytes / 10 * 9;
}

MemoryPlan plan_memory(const model::Model& model, const JobSize& job, const MemoryLimits& limits) {
  const WeightSizes sizes = measure_weights(model.tree());
  MemoryPlan plan;
  plan.largest_layer_bytes = sizes.largest_layer_bytes;
  plan.largest_tensor_bytes = sizes.largest_tensor_bytes;
  if (job.n_windows * job.window_tokens > 0) plan_forward(model, job, limits.device, plan);
  if (limits.device == nullptr) {
    plan_host(sizes, job, host_limit(limits), plan);
  } else {
    plan_device(model, sizes, job, limits, plan);
  }
  return plan;
}

int64_t available_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t kilobytes = 0;
  while (meminfo >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    meminfo.ignore(1024, '\n');
  }
  return int64_t{4} << 30;
}

}  // namespace vernier::runtime
