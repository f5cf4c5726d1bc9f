#include "runtime/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <string>

#include "base/error.h"
#include "model/layers/residual_layer.h"

namespace vernier::runtime {
namespace {

// A batch has about this many tokens: enough for the products of small experts to run well.
constexpr int64_t kBatchTokens = 16384;
constexpr int64_t kFloatBytes = 4;

struct WeightSizes {
  int64_t largest_layer_bytes = 0;
  int64_t largest_tensor_bytes = 0;
  int64_t widest_row = 0;  // the widest activation any linear reads or writes, in elements
};

WeightSizes measure_weights(const model::ModuleTree& tree) {
  WeightSizes sizes;
  for (size_t layer = 0; layer < tree.layers().size(); ++layer) {
    int64_t layer_bytes = 0;
    for (const model::Module* module : tree.modules_of(static_cast<int>(layer))) {
      for (const model::TensorSpec& spec : module->tensors) {
        layer_bytes += n_bytes(DType::kBF16, spec.shape);
      }
    }
    sizes.largest_layer_bytes = std::max(sizes.largest_layer_bytes, layer_bytes);
  }
  for (const model::Module& module : tree.modules()) {
    if (module.kind == model::ModuleKind::kEmbedding || module.kind == model::ModuleKind::kLinear) {
      sizes.largest_tensor_bytes =
          std::max(sizes.largest_tensor_bytes, n_bytes(DType::kBF16, {module.n, module.k}));
    }
    if (module.layer >= 0) sizes.widest_row = std::max({sizes.widest_row, module.n, module.k});
  }
  return sizes;
}

// The parts of a plan that a forward pass over all windows takes.
void plan_forward(const model::Model& model, const JobSize& job, MemoryPlan& plan) {
  const int64_t n_tokens = job.n_windows * job.window_tokens;
  plan.batch_windows = std::clamp<int64_t>(kBatchTokens / job.window_tokens, 1, job.n_windows);
  plan.hidden_bytes = n_tokens * model.hidden_size() * kFloatBytes * job.n_passes;
  plan.forward_flops = 2 * n_tokens * model.active_weights();
  for (size_t layer = 0; layer < model.tree().layers().size(); ++layer) {
    const int64_t window_bytes = model.state_bytes(static_cast<int>(layer), job.window_tokens);
    plan.state_bytes = std::max(plan.state_bytes, plan.batch_windows * window_bytes);
  }
}

// Tokens of a batch that a layer works on at a time; 0 without a forward pass.
int64_t piece_tokens(int64_t batch_windows, int64_t window_tokens) {
  return std::min(model::kPieceTokens, batch_windows * window_tokens);
}

[[noreturn]] void refuse(int64_t needed, int64_t limit) {
  throw Error(ErrorKind::kOutOfMemory,
              fmt::format("the job needs {} bytes of memory besides mapped files, {} are available "
                          "to it; use shorter sequences (--calib-seq-length) or raise --max-memory",
                          needed, limit));
}

}  // namespace

MemoryPlan plan_memory(const model::Model& model, const JobSize& job, int64_t memory_limit_bytes) {
  const WeightSizes sizes = measure_weights(model.tree());
  MemoryPlan plan;
  plan.largest_layer_bytes = sizes.largest_layer_bytes;
  plan.largest_tensor_bytes = sizes.largest_tensor_bytes;
  if (job.n_windows * job.window_tokens > 0) plan_forward(model, job, plan);

  // Input, output and two intermediates of the widest linear.
  const int64_t scratch_bytes =
      4 * piece_tokens(plan.batch_windows, job.window_tokens) * sizes.widest_row * kFloatBytes;
  // Packed planes of the largest tensor while they are written: at most a byte for a weight of two.
  const int64_t packed_bytes = sizes.largest_tensor_bytes / 2;
  const int64_t fixed_bytes = plan.state_bytes + scratch_bytes + packed_bytes;
  const int64_t limit =
      memory_limit_bytes > 0 ? memory_limit_bytes : available_memory_bytes() * 6 / 10;
  if (fixed_bytes > limit) refuse(fixed_bytes, limit);

  const bool hidden_fits = fixed_bytes + plan.hidden_bytes <= limit;
  plan.placement = hidden_fits ? HiddenPlacement::kMemory : HiddenPlacement::kFile;
  plan.anonymous_bytes = fixed_bytes + (hidden_fits ? plan.hidden_bytes : 0);
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
