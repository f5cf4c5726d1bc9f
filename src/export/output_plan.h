// What a checkpoint directory will hold, tensor by tensor, before any byte is written: which source
// tensors become planes, which scalars stand beside them, what is copied, and in which file each
// goes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/json_fwd.h"
#include "io/safetensors.h"
#include "model/module.h"
#include "quant/plan.h"

namespace vernier::exporting {

// How a calibrated maximum is stored: published checkpoints hold the scale made from it, the
// sharded checkpoint the maximum itself.
enum class ScalarForm { kScale, kAmax };

// Names of these scalars, F32 [] tensors: "M.input_scale", "M.input_amax".
std::string input_scalar_name(const model::Module& module, ScalarForm form);
std::string k_scalar_name(const model::AttentionSite& site, ScalarForm form);
std::string v_scalar_name(const model::AttentionSite& site, ScalarForm form);
// The tensor that holds a plane of a quantized module.
std::string plane_name(const model::Module& module, const formats::PlaneSpec& plane);
// How a plane is cut when its module's weight is: by the same rows, or by the columns that hold the
// same inputs. Whole where columns would divide a block of the format, and for the global scale.
model::Cut plane_cut(const model::Module& module, const formats::Format& format,
                     const formats::PlaneSpec& plane);

struct OutputTensor {
  io::TensorDecl decl;
  const model::Module* owner = nullptr;  // null: passes through (mtp.*, tensors nobody knows)
  bool is_parameter = false;             // counts towards the index's total_parameters
  model::Cut cut = {};                   // over tensor ranks, where files are by rank
};

// Every tensor of the output in network order, the order in which PyTorch lists a model's state: a
// linear's weight and bias, then weight_scale, input_scale, weight_scale_2; k_scale and v_scale
// after their attention's linears; tensors without a module last, in the order of `source`. `dtype`
// is that of unquantized floating tensors, absent: the source's; a router's correction bias and
// tensors without a module always keep the source's. Throws NotFound when the source lacks the
// weight of a quantized module.
std::vector<OutputTensor> plan_output(const model::ModuleTree& tree, const quant::QuantPlan& plan,
                                      const std::vector<io::TensorDecl>& source, ScalarForm form,
                                      std::optional<DType> dtype = {});

struct TensorFile {
  std::string name;
  std::vector<io::TensorDecl> tensors;
};

// Splits as huggingface_hub does, so that the same tensors meet in the same files: in order, a new
// shard when the next tensor would not fit, a tensor beyond the limit alone in its own. One shard
// is called model.safetensors, several model-00001-of-0000n.safetensors.
std::vector<TensorFile> split_into_shards(const std::vector<OutputTensor>& tensors,
                                          int64_t max_shard_bytes);

// model.safetensors.index.json. total_size counts tensor bytes without headers. total_parameters
// counts what PyTorch would call the model's parameters: elements of weights as stored (two NVFP4
// codes are one element), no scales, no correction biases, no MTP.
io::Json shard_index(const std::vector<OutputTensor>& tensors,
                     const std::vector<TensorFile>& files);

}  // namespace vernier::exporting
