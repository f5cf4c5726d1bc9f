// A checkpoint opened by a command, whatever its kind: Hugging Face or sharded, quantized or not.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/stored_model.h"
#include "runtime/layer_stream.h"
#include "text/tokenizer.h"

namespace vernier::cli {

// `ranks`: as model::open_model takes them.
model::StoredModel open_any_checkpoint(const std::filesystem::path& directory,
                                       const comm::Ranks* ranks = nullptr);

// What --hf-model-id names. Throws InvalidArgument for a checkpoint that is quantized already.
model::StoredModel open_unquantized(const std::string& model, const comm::Ranks* ranks = nullptr);

// What tells a job's inputs from others': names and sizes of a checkpoint's files, a hash of a
// text.
io::Json files_identity(const io::Checkpoint& checkpoint);
uint64_t text_identity(const runtime::Windows& windows);

// Bytes of all safetensors files of a checkpoint directory.
int64_t safetensors_bytes(const std::filesystem::path& directory);

// Bytes of the weights that this rank of the model's runs.
int64_t bytes_of_share(const model::StoredModel& stored);

// Weights x bits over the linear modules, divided by their weights.
double bits_per_weight(const model::StoredModel& stored);

// "bf16", or the formats of the linear modules by share of weights: "nvfp4 71 %, bf16 29 %".
std::string format_summary(const model::StoredModel& stored);

// Whether a linear's weight is something else than BF16 (runtime::JobSize).
bool decodes_weights(const model::StoredModel& stored);

// The same weights with the checkpoint's KV-cache format left out.
std::shared_ptr<const model::WeightSource> without_kv_format(
    std::shared_ptr<const model::WeightSource> weights);

// Token ids from a JSON file: a list of lists. Throws InvalidArgument naming the file and the
// place.
runtime::Windows read_token_ids(const std::filesystem::path& path);

}  // namespace vernier::cli
