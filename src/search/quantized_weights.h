// An unquantized model seen through a plan: every weight is what quantizing would make of it,
// packed when it is asked for, and every input is rounded. Nothing is written. The cache stays
// unquantized. Of a share of the weights it makes the share of what it would make of them whole.
#pragma once

#include <map>
#include <memory>

#include "calib/input_amax.h"
#include "comm/communicator.h"
#include "formats/format.h"
#include "model/weight_source.h"
#include "quant/plan.h"

namespace vernier::search {

// What calibration saw, by layer; -1: outside the stack.
using Statistics = std::map<int, calib::LayerStatistics>;

// The largest finite |w| of every linear's weight, each found once: many plans over one model ask
// for the same. (A search is no place to refuse a checkpoint for others; quantizing does.)
class WeightAmaxes {
 public:
  // `source` holds this rank's share of the weights; tensor ranks ask for the same, in one order.
  WeightAmaxes(const model::WeightSource& source, const comm::Communicator& tensor)
      : source_(source), tensor_(tensor) {}
  // Of the whole weight.
  float of(const model::Module& module);

 private:
  const model::WeightSource& source_;
  const comm::Communicator& tensor_;
  std::map<const model::Module*, float> known_;
};

class QuantizedWeights : public model::WeightSource {
 public:
  // Everything must outlive this. The plan may not quantize embeddings.
  QuantizedWeights(const model::ModuleTree& tree, const model::WeightSource& source,
                   const quant::QuantPlan& plan, const Statistics& statistics, WeightAmaxes& amaxes,
                   formats::Arithmetic arithmetic);

  Device* device() const override { return source_.device(); }
  // A layer's are quantized anew in each call, and the caller keeps what it needs; the head's,
  // which is asked for again and again, are kept.
  model::LinearWeight linear(const model::Module& module) const override;
  TensorView tensor(const model::TensorSpec& spec) const override { return source_.tensor(spec); }
  model::KvRule kv_rule(const model::AttentionSite&) const override { return {}; }
  void will_need(const model::Module& module) const override { source_.will_need(module); }
  void done_with(const model::Module& module) const override { source_.done_with(module); }

 private:
  model::LinearWeight quantize(const quant::SitePlan& site) const;
  float weight_amax(const quant::SitePlan& site) const;

  const model::ModuleTree& tree_;
  const model::WeightSource& source_;
  const quant::QuantPlan& plan_;
  WeightAmaxes& amaxes_;
  formats::Arithmetic arithmetic_;
  std::map<const model::Module*, calib::InputAmax> input_amax_;
  mutable std::map<const model::Module*, model::LinearWeight> outside_stack_;
};

}  // namespace vernier::search
