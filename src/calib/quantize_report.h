// What a quantization did, layer by layer: for tables and the --report file, and as the journal
// keeps it for a run that goes on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "calib/input_amax.h"
#include "io/json_fwd.h"

namespace vernier::calib {

// What happened to one quantized module.
struct ModuleReport {
  std::string name;
  std::string weight;  // format names; input "" for none
  std::string input;
  double signal = 0, noise = 0;
  int64_t n_weights = 0, n_saturated = 0, n_flushed = 0;
  float input_amax = 0;
  AmaxSource amax_source = AmaxSource::kObserved;
  bool is_all_zero = false;  // an all-zero weight, stored with global scale 1
};

// The maxima stored for one attention layer's cache.
struct KvReport {
  std::string name;  // of the attention mixer
  InputAmax k, v;
};

struct LayerReport {
  int layer = -1;
  std::vector<ModuleReport> modules;
  std::vector<KvReport> kv;
  std::vector<int64_t>
      expert_tokens;  // by expert, true routing; empty without calibration or experts
};

struct QuantizeReport {
  std::vector<LayerReport> layers;          // in network order, -1 last
  std::vector<std::string> passed_through;  // tensors outside the network: mtp.* and the like
};

io::Json to_json(const LayerReport& report);
// The report that to_json made this of.
LayerReport layer_report_from_json(const io::Json& json);

// With each module's signal-to-noise ratio.
io::Json to_json(const QuantizeReport& report);

}  // namespace vernier::calib
