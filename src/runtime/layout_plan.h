// What a job that calibrates and quantizes takes on many ranks laid out one way: device memory,
// bytes over the wire, time. A prediction from config.json alone: formulas over the module tree and
// a table of rates, each formula beside its code.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "comm/layout.h"
#include "model/model.h"
#include "runtime/layout_plan_rates.h"
#include "runtime/layout_plan_sizes.h"
#include "runtime/memory_plan.h"
#include "runtime/planned_device.h"

namespace vernier::runtime {

struct LayoutJob {
  JobSize size;              // of all replicas together
  int64_t device_bytes = 0;  // what a rank may take of its device
  // What an average weight takes in the output: Super by its own recipe, 74.6 GB of 120.7e9
  // weights.
  double output_bits = 4.95;
};

enum class StageOrder {
  kLayerByLayer,  // weights stream through; stages run one after another
  kBatchByBatch,  // a stage's weights stay; stages work at the same time
};

// What a rank sends, or as much receives.
struct WireBytes {
  int64_t tensor_sums = 0;
  int64_t expert_exchange = 0;
  int64_t stage_to_stage = 0;

  int64_t total() const { return tensor_sums + expert_exchange + stage_to_stage; }
};

// Of the job from its start to its end; nothing of one phase hides in another.
struct LayoutSeconds {
  double start = 0;  // of the program, and the output's files reserved
  double compute = 0;
  double wait = 0;  // for weights, and for hidden states that do not stay on the device
  double tensor_sums = 0;
  double expert_exchange = 0;
  double stage_to_stage = 0;
  double fill = 0;  // stages without a batch, at the first ones and the last
  double encode = 0;
  double write = 0;

  double total() const {
    return start + compute + wait + tensor_sums + expert_exchange + stage_to_stage + fill + encode +
           write;
  }
};

// Bytes are the most that any rank has.
struct LayoutPlan {
  comm::Layout layout;
  StageOrder order = StageOrder::kLayerByLayer;
  DevicePlan memory;
  HiddenPlacement placement = HiddenPlacement::kDevice;
  bool fits = false;  // memory.total_bytes within the job's device_bytes
  WireBytes wire;
  int64_t loaded_bytes = 0;   // from the host to the device
  int64_t written_bytes = 0;  // of the output
  LayoutSeconds seconds;
};

// Plans layouts of as many tensor ranks as `share`, which must outlive this, is open on one of.
class LayoutPlanner {
 public:
  LayoutPlanner(const model::Model& share, const LayoutJob& job, const MachineRates& rates);

  // REQUIRES: the share's number of tensor ranks; a layout that it accepts (check_layout); no more
  // replicas than windows.
  LayoutPlan plan(const comm::Layout& layout, StageOrder order);

 private:
  const MemoryPlan& replica_memory(int64_t n_windows);
  const std::vector<comm::Range>& stages(int64_t pp);

  const model::Model& share_;
  LayoutJob job_;
  MachineRates rates_;
  NetworkSizes sizes_;
  PlannedDevice device_;
  // A large network's modules are walked for each.
  std::map<int64_t, MemoryPlan> memory_by_windows_;
  std::map<int64_t, std::vector<comm::Range>> stages_by_pp_;
};

}  // namespace vernier::runtime
