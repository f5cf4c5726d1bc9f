// The two descriptions of a quantized checkpoint that servers read: hf_quant_config.json and
// config.json's quantization_config. Key order and spelling are those of Model Optimizer 0.47
// (docs/formats.md, "Published checkpoint").
#pragma once

#include <string>
#include <vector>

#include "io/json_fwd.h"
#include "model/module.h"
#include "quant/plan.h"

namespace vernier::exporting {

// A short list of names and wildcards that covers every unquantized module and touches no quantized
// one, by the peer's prefix algorithm (docs/formats.md). Sorted.
std::vector<std::string> summarize_excluded(const std::vector<std::string>& quantized,
                                            const std::vector<std::string>& unquantized);

// The module prefixes of the multi-token-prediction blocks among tensor names, in order of
// appearance: "mtp" and "mtp.layers.0" for "mtp.layers.0.norm.weight".
std::vector<std::string> find_mtp_prefixes(const std::vector<std::string>& tensor_names);

// hf_quant_config.json of a plan. `mtp_prefixes` are the detected MTP module prefixes ("mtp",
// "mtp.layers.0"). Throws Unsupported for formats that a published checkpoint cannot name.
io::Json hf_quant_config(const quant::QuantPlan& plan, const model::ModuleTree& tree,
                         const std::vector<std::string>& mtp_prefixes);

// Whether hf_quant_config.json says that anything is quantized; if not, neither description is
// written.
bool describes_quantization(const io::Json& hf_quant_config);

// quantization_config of config.json, derived from hf_quant_config.json.
io::Json quantization_config(const io::Json& hf_quant_config);

}  // namespace vernier::exporting
