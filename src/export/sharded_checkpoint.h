// Our own sharded checkpoint: vernier.json and safetensors files by parallel rank. It holds what
// export needs and what another layout can be cut from: packed planes, calibrated maxima, the
// source's other tensors. Byte by byte: docs/sharded_checkpoint.md.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "export/sharded_manifest.h"
#include "export/slice_store.h"
#include "io/safetensors.h"
#include "model/stored_model.h"
#include "quant/plan.h"
#include "quant/sink.h"

namespace vernier::exporting {

struct ShardedWriterOptions {
  std::filesystem::path directory;  // exists, empty or our own staging
  std::filesystem::path source;  // the BF16 checkpoint, recorded by identity (sizes, header hashes)
  std::string recipe_name;
  formats::Arithmetic arithmetic = formats::Arithmetic::kCuda;
  std::string mamba_ssm_cache_dtype;
  bool resume = false;
};

// As make_hf_writer; maxima are stored instead of scales.
std::unique_ptr<quant::QuantizedSink> make_sharded_writer(
    const ShardedWriterOptions& options, const model::ModuleTree& tree,
    const quant::QuantPlan& plan, const std::vector<io::TensorDecl>& tensors);

// A sharded checkpoint opened for reading: a runnable model, and what export needs beside it.
// Movable.
struct ShardedCheckpoint {
  model::StoredModel stored;  // its `checkpoint` is null: the tensors lie in `tensors`
  quant::QuantPlan plan;      // formats of every site as recorded; without the table of rules
  std::string recipe_name;
  std::string mamba_ssm_cache_dtype;
  formats::Arithmetic arithmetic = formats::Arithmetic::kCuda;
  std::filesystem::path source;          // where the BF16 checkpoint was
  std::vector<SourceFile> source_files;  // and its identity
  std::shared_ptr<const SliceStore> tensors;

  // The tensors of the source checkpoint, as make_hf_writer wants them.
  std::vector<io::TensorDecl> source_tensors() const;
  // Sends everything it holds to another sink, tensor by tensor. Does not finish it.
  void copy_to(quant::QuantizedSink& sink) const;
  // Throws Corrupt when `directory` does not hold the checkpoint that this one was made from.
  void check_source(const std::filesystem::path& directory) const;
};

bool is_sharded_checkpoint(const std::filesystem::path& directory);
// Throws NotFound, Corrupt or Unsupported (another format version), naming file and key.
ShardedCheckpoint open_sharded(const std::filesystem::path& directory);

}  // namespace vernier::exporting
