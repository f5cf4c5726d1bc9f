// The weights of a Hugging Face checkpoint directory, unquantized or as exported by us or by Model
// Optimizer. A weight's format is read off its tensors: it is the registered format all of whose
// planes are there with their dtypes.
#pragma once

#include <filesystem>
#include <memory>

#include "io/checkpoint.h"
#include "model/weight_source.h"

namespace vernier::model {

class CheckpointWeights : public WeightSource {
 public:
  // `kv_format` is the checkpoint's kv_cache_quant_algo as a registered format, null for none.
  CheckpointWeights(std::shared_ptr<const io::Checkpoint> checkpoint,
                    const formats::Format* kv_format);

  LinearWeight linear(const Module& module) const override;
  TensorView tensor(const TensorSpec& spec) const override;
  KvRule kv_rule(const AttentionSite& site) const override;
  void will_need(const Module& module) const override;
  void done_with(const Module& module) const override;

 private:
  std::shared_ptr<const io::Checkpoint> checkpoint_;
  const formats::Format* kv_format_;
};

// The KV format a checkpoint directory declares in hf_quant_config.json or config.json; null for
// none.
const formats::Format* declared_kv_format(const std::filesystem::path& directory);

// Whether any linear or embedding is stored in another than the unquantized format.
bool is_quantized(const ModuleTree& tree, const io::Checkpoint& checkpoint);

// Checks that every tensor of the tree is in the checkpoint with its shape, so that work does not
// begin on a checkpoint that cannot be finished. Throws NotFound or Corrupt naming file, tensor,
// found and expected. Packed linears are checked plane by plane. A tensor beside a weight that we
// would leave out (a bias, a smoothing scale) is Unsupported. Reads no data.
void check_complete(const ModuleTree& tree, const io::Checkpoint& checkpoint);

}  // namespace vernier::model
