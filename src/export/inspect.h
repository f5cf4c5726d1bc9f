// What is in a checkpoint directory, and whether servers would load it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "io/json_fwd.h"

namespace vernier::exporting {

struct ModuleRow {
  std::string name;
  std::string format;        // weight format, "bf16" for unquantized
  std::string input_format;  // "" for none
  int64_t n = 0, k = 0;
  int64_t bytes = 0;
  double bits_per_weight = 0;
  float global_scale = 0;                          // weight_scale_2 or weight_scale; 0 for none
  float min_block_scale = 0, max_block_scale = 0;  // NVFP4: smallest and largest E4M3 block scale
  float input_scale = 0;
};

struct Inspection {
  std::vector<ModuleRow> modules;  // linears and embeddings
  std::string kv_format;           // "" for none
  int64_t n_tensors = 0;
  int64_t size_bytes = 0;      // all safetensors files
  double bits_per_weight = 0;  // over linear modules
};

Inspection inspect_checkpoint(const std::filesystem::path& directory);
io::Json to_json(const Inspection& inspection);

// Checks a published checkpoint as vLLM, SGLang and TensorRT-LLM would load it (docs/formats.md
// lists the requirements). One sentence a violation, naming file and tensor or key; empty: none.
std::vector<std::string> verify_checkpoint(const std::filesystem::path& directory);

}  // namespace vernier::exporting
