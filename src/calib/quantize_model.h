// The main job: calibrate, quantize, write; layer by layer, so that memory does not grow with the
// model, and durable layer by layer, so that a killed run goes on where it was.
#pragma once

#include <vector>

#include "base/progress.h"
#include "calib/quantize_report.h"
#include "formats/format.h"
#include "io/checkpoint.h"
#include "io/staging.h"
#include "model/model.h"
#include "quant/plan.h"
#include "quant/sink.h"
#include "runtime/layer_stream.h"

namespace vernier::calib {

struct QuantizeJob {
  const model::Model& model;
  const model::WeightSource& weights;
  const io::Checkpoint& checkpoint;
  const quant::QuantPlan& plan;
  std::vector<quant::QuantizedSink*> sinks;
  // Where weights of which `weights` holds shares are encoded whole; null: it holds none.
  const model::WeightSource* whole_weights = nullptr;
  runtime::Windows windows;       // this replica's text; empty when the plan needs none
  runtime::StreamOptions stream;  // batch size, placement; hook and visitor are set by the job
  double all_experts_ratio = 0;   // 0: true routing, experts share their amax
  formats::Arithmetic arithmetic = formats::Arithmetic::kCuda;
  // Of this rank's stage, on the stage's first rank; null: nothing is resumed.
  io::Journal* journal = nullptr;
  ProgressSink* progress = nullptr;
  PhaseTimes* phases = nullptr;
};

// Writes every tensor of the checkpoint to every sink and finishes the sinks. Throws Corrupt naming
// file, tensor and index for a non-finite weight. Deterministic: the same job gives the same bytes,
// resumed or not. A resumed job writes to sinks that hold the layers that the journal says are
// done.
//
// The model's ranks share the work: each packs some modules, whole, and sends them to sinks of its
// own that write to the same place; the first finishes them. The report is whole on the first rank.
QuantizeReport quantize_model(const QuantizeJob& job);

}  // namespace vernier::calib
