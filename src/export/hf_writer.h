// Writes the unified Hugging Face checkpoint: shards planned up front and filled in place, both
// quantization configs, index, sidecar files. Never holds a model.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "io/checkpoint.h"
#include "io/json_fwd.h"
#include "model/module.h"
#include "quant/plan.h"
#include "quant/sink.h"

namespace vernier::exporting {

struct HfWriterOptions {
  std::filesystem::path directory;  // exists, empty or our own staging
  std::filesystem::path source;  // the checkpoint whose config and sidecar files are carried over
  int64_t max_shard_bytes = 10'000'000'000;
  formats::Arithmetic arithmetic = formats::Arithmetic::kCuda;
  std::string mamba_ssm_cache_dtype;  // empty: as in the source
  std::optional<DType> dtype;         // of unquantized floating tensors; absent: as in the source
  bool resume = false;
};

// `tensors` names every tensor of the source checkpoint with its dtype and shape (the writer
// decides from the plan which become planes and which are copied). The tree and the plan must
// outlive the writer.
//
// Several processes may fill the same files, each with other tensors: one makes a writer and drops
// it, which creates the files; after that all of them make theirs with `resume`. When all have
// written and called sync(), one calls finish().
std::unique_ptr<quant::QuantizedSink> make_hf_writer(const HfWriterOptions& options,
                                                     const model::ModuleTree& tree,
                                                     const quant::QuantPlan& plan,
                                                     const std::vector<io::TensorDecl>& tensors);

}  // namespace vernier::exporting
