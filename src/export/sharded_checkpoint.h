// Our own sharded checkpoint: vernier.json and safetensors files by parallel rank. It holds what
// export needs and what another layout can be cut from: packed planes, calibrated maxima, the
// source's other tensors. Byte by byte: docs/sharded_checkpoint.md.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "comm/ranks.h"
#include "export/sharded_manifest.h"
#include "export/sharded_weights.h"
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
  comm::Layout layout;  // whose ranks the files are for, whoever writes them
  bool resume = false;
};

// As make_hf_writer, also where several processes write; maxima are stored instead of scales.
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
  std::shared_ptr<const ShardedWeights> weights;  // those of `stored`

  // The tensors of the source checkpoint, as make_hf_writer wants them.
  std::vector<io::TensorDecl> source_tensors() const;
  // Sends what it holds to another sink, module by module and tensor by tensor, of which every
  // part.count-th: all parts together are all of it, each once. Does not finish the sink.
  void copy_to(quant::QuantizedSink& sink, comm::Share part = {}) const;
  // Throws Corrupt when `directory` does not hold the checkpoint that this one was made from.
  void check_source(const std::filesystem::path& directory) const;

 private:
  void copy_site(const quant::SitePlan& site, quant::QuantizedSink& sink) const;
};

bool is_sharded_checkpoint(const std::filesystem::path& directory);
// `ranks` as model::open_model takes them; the weights are whole. Throws NotFound, Corrupt or
// Unsupported (another format version), naming file and key, and InvalidArgument as open_model
// does.
ShardedCheckpoint open_sharded(const std::filesystem::path& directory,
                               const comm::Ranks* ranks = nullptr);

}  // namespace vernier::exporting
