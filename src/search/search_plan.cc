#include "search/search_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "model/layers/residual_layer.h"
#include "model/stage.h"
#include "search/groups.h"

namespace vernier::search {
namespace {

constexpr int64_t kFloatBytes = 4;
constexpr int64_t kLosses = 2;
// Matrices of a token's hidden size that are kept besides the layers' inputs.
constexpr int64_t kKeptBesides = 1 + kLosses;
// What a backward pass holds of a layer, counted in the forward pass's temporaries: those again,
// and the gradients of both losses.
constexpr int64_t kBackwardScratch = 2 + kLosses;
constexpr int64_t kReserveBytes = int64_t{256} << 20;  // as the plan of a forward pass

// Of this rank's share.
int64_t layer_weight_bytes(const model::Model& model, int64_t layer) {
  int64_t bytes = 0;
  for (const model::Module* module : model.tree().modules_of(static_cast<int>(layer))) {
    if (module->kind != model::ModuleKind::kLinear || !model::is_here(model, *module)) continue;
    const auto [n, k] = share_of(*module, model.ranks().place().tensor);
    bytes += n_bytes(DType::kBF16, {n, k});
  }
  return bytes;
}

// A layer, the next one on its way, and what the candidates make of the layer.
int64_t device_bytes(const model::Model& model, int64_t batch_tokens, int64_t n_candidates,
                     const Device* device) {
  int64_t peak = 0;
  const comm::Range layers = model::layers_here(model);
  for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
    const int64_t own = layer_weight_bytes(model, layer);
    const int64_t next = layer > layers.begin ? layer_weight_bytes(model, layer - 1) : 0;
    const int64_t packed = n_candidates * own / 2;  // at most a byte for a weight of two
    const int64_t scratch =
        kBackwardScratch * model.scratch_bytes(static_cast<int>(layer), batch_tokens, device);
    peak = std::max(peak, own + next + packed + scratch);
  }
  return peak + kReserveBytes;
}

}  // namespace

SearchPlan plan_search(const model::Model& model, int64_t n_windows, int64_t window_tokens,
                       int64_t n_candidates, double score_tokens,
                       const runtime::MemoryLimits& limits) {
  SearchPlan plan;
  const int64_t n_layers = model::layers_here(model).size();
  plan.batch_windows =
      std::clamp<int64_t>(model::piece_tokens(limits.device) / window_tokens, 1, n_windows);
  const int64_t window_bytes =
      window_tokens * model.hidden_size() * kFloatBytes * (n_layers + kKeptBesides);
  const int64_t host_limit = runtime::host_limit(limits);
  if (window_bytes > host_limit) {
    throw Error(ErrorKind::kOutOfMemory,
                fmt::format("the search needs {} bytes of memory for the layers' inputs of one "
                            "sequence, {} are available to it; use shorter sequences "
                            "(--calib-seq-length) or raise --max-memory",
                            window_bytes, host_limit));
  }
  const int64_t n_most = std::min(n_windows, host_limit / window_bytes);
  plan.n_chunks = (n_windows + n_most - 1) / n_most;
  plan.chunk_windows = (n_windows + plan.n_chunks - 1) / plan.n_chunks;
  plan.kept_bytes = plan.chunk_windows * window_bytes;
  if (limits.device != nullptr) {
    plan.device_bytes =
        device_bytes(model, plan.batch_windows * window_tokens, n_candidates, limits.device);
    const int64_t device_limit =
        limits.device_bytes > 0 ? limits.device_bytes : limits.device->memory().free_bytes / 10 * 9;
    if (plan.device_bytes > device_limit) {
      throw Error(ErrorKind::kOutOfMemory,
                  fmt::format("the search needs {} bytes of device memory, {} are available to it; "
                              "use shorter sequences (--calib-seq-length), fewer --candidates or "
                              "raise --max-device-memory",
                              plan.device_bytes, device_limit));
    }
    if (plan.device_bytes + plan.kept_bytes <= device_limit) {
      plan.placement = runtime::HiddenPlacement::kDevice;
      plan.device_bytes += plan.kept_bytes;
    }
  }
  // A forward pass, its repetition, two gradients, and the candidates; with several chunks a
  // forward pass more, which sees all of the text before anything is scored.
  const double n_passes =
      (plan.n_chunks > 1 ? 5.0 : 4.0) + score_tokens * static_cast<double>(n_candidates);
  const int64_t n_all_windows = n_windows * model.ranks().layout().dp();
  plan.flops = static_cast<int64_t>(n_passes * 2.0 * static_cast<double>(n_all_windows) *
                                    static_cast<double>(window_tokens) *
                                    static_cast<double>(model.active_weights()));
  return plan;
}

}  // namespace vernier::search
