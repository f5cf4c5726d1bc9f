// Letters of the formulas: T tokens of a replica, H hidden size, L layers of a stage, S ranks of a
// stage.
#include "runtime/layout_plan.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "model/layers/moe.h"
#include "model/layers/residual_layer.h"
#include "model/stage.h"

namespace vernier::runtime {
namespace {

constexpr int64_t kFloatBytes = 4;
constexpr int64_t kActivationBytes = 2;  // BF16

int64_t ceil_div(int64_t n, int64_t divisor) { return (n + divisor - 1) / divisor; }

// Machines that ranks [first, first + n) are on.
int64_t n_machines(int64_t first, int64_t n, int64_t per_machine) {
  return (first + n - 1) / per_machine - first / per_machine + 1;
}

// Of the ranks that a rank exchanges rows with, as shares of all of its expert group's rows: for
// those of its own machine, and for the others; of the rank with the most of the latter.
struct Peers {
  double near = 0;
  double far = 0;
};

Peers expert_peers(const comm::Layout& layout, int64_t per_machine) {
  const int64_t ep = layout.ep();
  int64_t fewest_near = ep;  // the rank itself among them
  for (int64_t rank = 0; rank < layout.world(); ++rank) {
    const int64_t group = rank / ep * ep;
    const int64_t machine = rank / per_machine * per_machine;
    const int64_t end = std::min(group + ep, machine + per_machine);
    fewest_near = std::min(fewest_near, end - std::max(group, machine));
  }
  const auto n = static_cast<double>(ep);
  return {static_cast<double>(fewest_near - 1) / n, static_cast<double>(ep - fewest_near) / n};
}

bool tensor_groups_cross_machines(const comm::Layout& layout, int64_t per_machine) {
  for (int64_t first = 0; first < layout.world(); first += layout.tp()) {
    if (n_machines(first, layout.tp(), per_machine) > 1) return true;
  }
  return false;
}

// Windows of a replica, in batches that go through a layer together, in pieces that go through a
// mixer together.
struct Passes {
  int64_t n_windows = 0;
  int64_t n_tokens = 0;
  int64_t n_batches = 0;
  int64_t n_pieces = 0;
  int64_t piece_tokens = 0;
};

Passes passes_of(const JobSize& size, int64_t batch_windows, const Device& device) {
  if (size.n_windows * size.window_tokens == 0) return {};
  const int64_t batch_tokens = batch_windows * size.window_tokens;
  const int64_t piece_tokens = std::min(batch_tokens, model::piece_tokens(&device));
  const int64_t n_batches = ceil_div(size.n_windows, batch_windows);
  return {.n_windows = size.n_windows,
          .n_tokens = size.n_windows * size.window_tokens,
          .n_batches = n_batches,
          .n_pieces = n_batches * ceil_div(batch_tokens, piece_tokens),
          .piece_tokens = piece_tokens};
}

// What a stage takes of a rank.
struct StageCosts {
  LayoutSeconds seconds;
  WireBytes wire;
  double loaded_bytes = 0;
  double packed_bytes = 0;  // as BF16

  // All that a batch waits for.
  double pass() const {
    return seconds.compute + seconds.tensor_sums + seconds.expert_exchange + seconds.stage_to_stage;
  }
};

// What plans of one share have in common, and a layout's part of the windows and the layers.
struct Setting {
  const comm::Layout& layout;
  StageOrder order;
  const LayoutJob& job;
  const MachineRates& rates;
  const NetworkSizes& sizes;
  const Device& device;
  int64_t hidden_size;
  JobSize replica;           // the windows of the replica that has most
  const MemoryPlan& memory;  // of a rank that has all layers' temporaries, and no limit
  const std::vector<comm::Range>& stages;
};

class Planning {
 public:
  explicit Planning(const Setting& setting)
      : layout_(setting.layout),
        order_(setting.order),
        job_(setting.job),
        rates_(setting.rates),
        sizes_(setting.sizes),
        device_(setting.device),
        hidden_size_(setting.hidden_size),
        memory_(setting.memory),
        stages_(setting.stages),
        peers_(expert_peers(layout_, rates_.devices_per_machine)),
        passes_(passes_of(setting.replica, setting.memory.batch_windows, device_)) {}

  LayoutPlan run() {
    LayoutPlan plan;
    plan.layout = layout_;
    plan.order = order_;
    plan_memory(plan);
    std::vector<StageCosts> stages;
    for (int64_t stage = 0; stage < layout_.pp(); ++stage) {
      stages.push_back(stage_costs(stage, plan));
    }
    for (const StageCosts& stage : stages) add_bytes(stage, plan);
    order_ == StageOrder::kLayerByLayer ? add_one_after_another(stages, plan)
                                        : add_at_the_same_time(stages, plan);
    plan.seconds.start = rates_.start_s + output_bytes(all_weights()) / rates_.reserve_bytes_per_s;
    return plan;
  }

 private:
  bool has_forward() const { return passes_.n_tokens > 0; }
  comm::Range layers_of(int64_t stage) const { return stages_[static_cast<size_t>(stage)]; }
  const LayerSizes& layer(int64_t index) const { return sizes_.layers[static_cast<size_t>(index)]; }

  // --- memory ---

  // One rank's plan (memory_plan.h) for a replica's windows and the share's states and temporaries,
  // with the weights of this layout, and what experts on other ranks take besides.
  void plan_memory(LayoutPlan& plan) const {
    DevicePlan& needs = plan.memory;
    needs.weight_bytes = weight_bytes();
    needs.state_bytes = memory_.device.state_bytes;
    needs.scratch_bytes = memory_.device.scratch_bytes + exchange_bytes();
    // All hidden states where they fit, else a batch of them.
    needs.hidden_bytes = memory_.hidden_bytes;
    needs.total_bytes = needs.weight_bytes + needs.state_bytes + needs.scratch_bytes;
    if (needs.total_bytes + needs.hidden_bytes > job_.device_bytes && has_forward()) {
      plan.placement = HiddenPlacement::kMemory;
      needs.hidden_bytes = memory_.hidden_bytes / passes_.n_windows * memory_.batch_windows;
    }
    needs.total_bytes += needs.hidden_bytes;
    plan.fits = needs.total_bytes <= job_.device_bytes;
  }

  // Bytes of a layer's linears that a rank loads to run it: 1/ep of the experts.
  int64_t share_bytes(int64_t index) const {
    return layer(index).share_bytes + layer(index).expert_bytes / layout_.ep();
  }

  // Layer by layer: the shares of the layer that runs and of the one on its way. Batch by batch: of
  // all of a stage's. With tensor ranks besides: the whole module that is being packed. The
  // embedding and the head are there alone.
  int64_t weight_bytes() const {
    int64_t most = 0;
    int64_t largest_module = 0;
    for (int64_t stage = 0; stage < layout_.pp(); ++stage) {
      const comm::Range layers = layers_of(stage);
      int64_t sum = 0;
      for (int64_t index = layers.begin; index < layers.end; ++index) {
        const int64_t previous = index > layers.begin ? share_bytes(index - 1) : 0;
        sum = (order_ == StageOrder::kLayerByLayer ? previous : sum) + share_bytes(index);
        most = std::max(most, sum);
        largest_module = std::max(largest_module, layer(index).largest_dense_bytes);
      }
    }
    return std::max(most + (layout_.tp() > 1 ? largest_module : 0), sizes_.largest_edge_bytes);
  }

  // Routed rows of a rank that go out at once: as many as are held at once, or what a piece's own
  // rows, 1/tp of it, give.
  int64_t rows_at_once(const LayerSizes& layer) const {
    const double most = static_cast<double>(model::expert_batch_pairs(&device_)) / layer.top_k;
    return std::min(std::max(static_cast<int64_t>(most), int64_t{1}),
                    ceil_div(passes_.piece_tokens, layout_.tp()));
  }

  // Pairs (a row for an expert of its own) are held as they leave, as they arrive and as results,
  // then between the linears or on their way back, sorted and arrived: 3 in + max(inner, 2 in). A
  // layer's own temporaries count 2 in + inner of them.
  int64_t exchange_bytes() const {
    if (layout_.ep() == 1 || !has_forward()) return 0;
    int64_t most = 0;
    for (const LayerSizes& layer : sizes_.layers) {
      if (layer.top_k == 0) continue;
      const double n_pairs = static_cast<double>(rows_at_once(layer)) * layer.top_k;
      const int64_t more = std::max(layer.expert_in, 3 * layer.expert_in - layer.expert_inner);
      most = std::max<int64_t>(most, std::llround(n_pairs) * more * kActivationBytes);
    }
    return most;
  }

  // --- a stage ---

  StageCosts stage_costs(int64_t stage, const LayoutPlan& plan) const {
    StageCosts costs;
    if (has_forward()) {
      add_compute(stage, costs);
      add_loads(stage, plan.placement, costs);
      add_tensor_sums(stage, costs);
      add_exchange(stage, costs);
      if (stage > 0) add_hand_over(costs);
    }
    add_packing(stage, costs);
    return costs;
  }

  double compute_seconds(const LayerSizes& layer) const {  // 2 T x weights
    return 2 * static_cast<double>(passes_.n_tokens) * layer.active_weights /
           rates_.forward_flop_per_s;
  }

  void add_compute(int64_t stage, StageCosts& costs) const {
    const comm::Range layers = layers_of(stage);
    for (int64_t index = layers.begin; index < layers.end; ++index) {
      costs.seconds.compute += compute_seconds(layer(index));
    }
  }

  // Layer by layer a layer is on its way while the one before computes, and what it takes longer is
  // waited for: the first one's load, and of every other max(0, load - compute before it). Batch by
  // batch, all loads come first. Hidden states in host memory go to the device and back, 2 T H x 4
  // bytes a layer.
  void add_loads(int64_t stage, HiddenPlacement placement, StageCosts& costs) const {
    const comm::Range layers = layers_of(stage);
    const bool hides = order_ == StageOrder::kLayerByLayer;
    const int64_t edge_bytes = stage == 0 ? sizes_.embedding_bytes : 0;
    costs.loaded_bytes = static_cast<double>(edge_bytes);
    costs.seconds.wait = load_seconds(costs.loaded_bytes);
    for (int64_t index = layers.begin; index < layers.end; ++index) {
      const auto bytes = static_cast<double>(share_bytes(index));
      const double hidden = hides && index > layers.begin ? compute_seconds(layer(index - 1)) : 0;
      costs.loaded_bytes += bytes;
      costs.seconds.wait += std::max(0.0, load_seconds(bytes) - hidden);
    }
    if (placement == HiddenPlacement::kDevice) return;
    costs.seconds.wait += load_seconds(2 * hidden_bytes() * static_cast<double>(layers.size()));
  }

  double load_seconds(double bytes) const { return bytes / rates_.load_bytes_per_s; }

  // FP32 hidden states of all tokens: T H x 4.
  double hidden_bytes() const {
    return static_cast<double>(passes_.n_tokens * hidden_size_ * kFloatBytes);
  }

  // After every layer of the stage, and after the embedding on the first: a sum puts
  // 2 (tp - 1) / tp x T H x 4 bytes on a rank's wire. A sum for every piece, and for every window
  // that is embedded.
  void add_tensor_sums(int64_t stage, StageCosts& costs) const {
    if (layout_.tp() == 1) return;
    const int64_t n_layers = layers_of(stage).size();
    const int64_t n_sums = n_layers + (stage == 0 ? 1 : 0);
    const int64_t n_calls = n_layers * passes_.n_pieces + (stage == 0 ? passes_.n_windows : 0);
    costs.wire.tensor_sums = 2 * (layout_.tp() - 1) * n_sums * passes_.n_tokens * hidden_size_ *
                             kFloatBytes / layout_.tp();
    const bool is_far = tensor_groups_cross_machines(layout_, rates_.devices_per_machine);
    const double rate = is_far
                            ? std::min(rates_.between_machines_bytes_per_s, rates_.sum_bytes_per_s)
                            : rates_.sum_bytes_per_s;
    costs.seconds.tensor_sums = static_cast<double>(costs.wire.tensor_sums) / rate +
                                static_cast<double>(n_calls) * rates_.collective_s;
  }

  // In every MoE layer a rank routes T / tp rows to top_k experts each, in BF16; (ep - 1) / ep of
  // the pairs are other ranks', there and back: T / tp x top_k x (in + out) x 2 x (ep - 1) / ep.
  // Links within a machine and between machines work at the same time; the slower ends it. Calls:
  // counts, there and back for all rows at once, and two that agree on how often, for every piece.
  void add_exchange(int64_t stage, StageCosts& costs) const {
    if (layout_.ep() == 1) return;
    const double own_rows =
        static_cast<double>(passes_.n_tokens) / static_cast<double>(layout_.tp());
    const int64_t piece_rows = ceil_div(passes_.piece_tokens, layout_.tp());
    const comm::Range layers = layers_of(stage);
    double all = 0;
    int64_t n_calls = 0;
    for (int64_t index = layers.begin; index < layers.end; ++index) {
      const LayerSizes& moe = layer(index);
      if (moe.top_k == 0) continue;
      const auto row_bytes =
          static_cast<double>((moe.expert_in + moe.expert_out) * kActivationBytes);
      all += own_rows * moe.top_k * row_bytes;
      n_calls += passes_.n_pieces * (2 + 3 * ceil_div(piece_rows, rows_at_once(moe)));
    }
    costs.wire.expert_exchange = std::llround(all * (peers_.near + peers_.far));
    costs.seconds.expert_exchange =
        std::max(all * peers_.near / rates_.exchange_bytes_per_s,
                 all * peers_.far / rates_.between_machines_bytes_per_s) +
        static_cast<double>(n_calls) * rates_.collective_s;
  }

  // Each rank of a stage has its replica's T H x 4 bytes from the same rank of the stage before.
  void add_hand_over(StageCosts& costs) const {
    const int64_t per_machine = rates_.devices_per_machine;
    bool is_far = false;
    for (int64_t rank = layout_.stage_size(); rank < layout_.world(); ++rank) {
      is_far |= rank / per_machine != (rank - layout_.stage_size()) / per_machine;
    }
    const double rate = is_far ? rates_.between_machines_bytes_per_s : rates_.exchange_bytes_per_s;
    costs.wire.stage_to_stage = std::llround(hidden_bytes());
    costs.seconds.stage_to_stage =
        hidden_bytes() / rate + static_cast<double>(passes_.n_batches) * rates_.collective_s;
  }

  // The rank that packs most of a layer: 1/S of the experts, which it has, and 1/S of the other
  // modules or one that is larger. Those, cut among tensor ranks, it loads for that, whole; without
  // a forward pass all. Machines write what their ranks packed.
  void add_packing(int64_t stage, StageCosts& costs) const {
    const comm::Range layers = layers_of(stage);
    double written = 0;  // by all ranks, as BF16
    const auto add = [&](const LayerSizes& sizes, bool is_cut) {
      const double dense = packed_dense_bytes(sizes);
      const double experts = packed_expert_bytes(sizes);
      const double loaded = !has_forward()               ? dense + experts
                            : is_cut && layout_.tp() > 1 ? dense
                                                         : 0;
      costs.packed_bytes += dense + experts;
      costs.loaded_bytes += loaded;
      costs.seconds.encode += (dense + experts) / rates_.encode_bytes_per_s + load_seconds(loaded);
      written += static_cast<double>(sizes.dense_bytes + sizes.expert_bytes);
    };
    for (int64_t index = layers.begin; index < layers.end; ++index) add(layer(index), true);
    if (stage + 1 == layout_.pp()) add(sizes_.outside, false);

    const int64_t first = stage * layout_.stage_size();
    const int64_t machines = n_machines(first, layout_.stage_size(), rates_.devices_per_machine);
    costs.seconds.write =
        output_bytes(written / static_cast<double>(machines)) / rates_.write_bytes_per_s;
  }

  double packed_dense_bytes(const LayerSizes& sizes) const {
    return std::max(
        static_cast<double>(sizes.largest_dense_bytes),
        static_cast<double>(sizes.dense_bytes) / static_cast<double>(layout_.stage_size()));
  }
  double packed_expert_bytes(const LayerSizes& sizes) const {
    return static_cast<double>(sizes.expert_bytes) / static_cast<double>(layout_.stage_size());
  }

  // --- all stages ---

  // Of weights that BF16 would take so many bytes for.
  double output_bytes(double bf16_bytes) const { return bf16_bytes / 16 * job_.output_bits; }

  double all_weights() const {  // as BF16
    int64_t bytes = sizes_.outside.dense_bytes;
    for (const LayerSizes& layer : sizes_.layers) bytes += layer.dense_bytes + layer.expert_bytes;
    return static_cast<double>(bytes);
  }

  void add_bytes(const StageCosts& stage, LayoutPlan& plan) const {
    const auto raise = [](int64_t& most, int64_t bytes) { most = std::max(most, bytes); };
    raise(plan.wire.tensor_sums, stage.wire.tensor_sums);
    raise(plan.wire.expert_exchange, stage.wire.expert_exchange);
    raise(plan.wire.stage_to_stage, stage.wire.stage_to_stage);
    raise(plan.loaded_bytes, std::llround(stage.loaded_bytes));
    raise(plan.written_bytes, std::llround(output_bytes(stage.packed_bytes)));
  }

  // A stage begins when the one before has run all batches, packed and written its layers.
  static void add_one_after_another(const std::vector<StageCosts>& stages, LayoutPlan& plan) {
    for (const StageCosts& stage : stages) {
      plan.seconds.compute += stage.seconds.compute;
      plan.seconds.wait += stage.seconds.wait;
      plan.seconds.tensor_sums += stage.seconds.tensor_sums;
      plan.seconds.expert_exchange += stage.seconds.expert_exchange;
      plan.seconds.stage_to_stage += stage.seconds.stage_to_stage;
      plan.seconds.encode += stage.seconds.encode;
      plan.seconds.write += stage.seconds.write;
    }
  }

  // All batches go at the pace of the slowest stage, and the last leaves pp - 1 batches after the
  // first stage is done: pass x (1 + (pp - 1) / batches). Then all stages pack and write at once,
  // and a machine writes what all of its stages packed.
  void add_at_the_same_time(const std::vector<StageCosts>& stages, LayoutPlan& plan) const {
    const StageCosts& slowest = *std::ranges::max_element(stages, {}, &StageCosts::pass);
    LayoutSeconds& seconds = plan.seconds;
    seconds = slowest.seconds;
    if (has_forward()) {
      seconds.fill = slowest.pass() * static_cast<double>(layout_.pp() - 1) /
                     static_cast<double>(passes_.n_batches);
    }
    for (const StageCosts& stage : stages) {
      seconds.wait = std::max(seconds.wait, stage.seconds.wait);
      seconds.encode = std::max(seconds.encode, stage.seconds.encode);
      seconds.write = std::max(seconds.write, stage.seconds.write);
    }
    const int64_t n_all = n_machines(0, layout_.world(), rates_.devices_per_machine);
    seconds.write =
        std::max(seconds.write, output_bytes(all_weights()) / static_cast<double>(n_all) /
                                    rates_.write_bytes_per_s);
  }

  const comm::Layout& layout_;
  StageOrder order_;
  const LayoutJob& job_;
  const MachineRates& rates_;
  const NetworkSizes& sizes_;
  const Device& device_;
  int64_t hidden_size_;
  const MemoryPlan& memory_;
  const std::vector<comm::Range>& stages_;
  Peers peers_;
  Passes passes_;
};

}  // namespace

LayoutPlanner::LayoutPlanner(const model::Model& share, const LayoutJob& job,
                             const MachineRates& rates)
    : share_(share), job_(job), rates_(rates), sizes_(measure_network(share)) {}

LayoutPlan LayoutPlanner::plan(const comm::Layout& layout, StageOrder order) {
  VERNIER_CHECK(layout.tp() == share_.ranks().layout().tp());
  JobSize replica = job_.size;
  // Later replicas are never smaller.
  replica.n_windows = comm::part_of(job_.size.n_windows, {layout.dp() - 1, layout.dp()}).size();
  return Planning({.layout = layout,
                   .order = order,
                   .job = job_,
                   .rates = rates_,
                   .sizes = sizes_,
                   .device = device_,
                   .hidden_size = share_.hidden_size(),
                   .replica = replica,
                   .memory = replica_memory(replica.n_windows),
                   .stages = stages(layout.pp())})
      .run();
}

const MemoryPlan& LayoutPlanner::replica_memory(int64_t n_windows) {
  const auto known = memory_by_windows_.find(n_windows);
  if (known != memory_by_windows_.end()) return known->second;
  JobSize size = job_.size;
  size.n_windows = n_windows;
  constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
  const MemoryPlan plan = plan_memory(
      share_, size, {.host_bytes = kNoLimit, .device = &device_, .device_bytes = kNoLimit});
  return memory_by_windows_.emplace(n_windows, plan).first->second;
}

const std::vector<comm::Range>& LayoutPlanner::stages(int64_t pp) {
  std::vector<comm::Range>& stages = stages_by_pp_[pp];
  for (int64_t stage = std::ssize(stages); stage < pp; ++stage) {
    stages.push_back(model::stage_layers(share_.tree(), {stage, pp}));
  }
  return stages;
}

}  // namespace vernier::runtime
