// For tests: sharded checkpoints of a golden network, and what an export makes of them.
#pragma once

#include <cstring>
#include <string>

#include "export/hf_writer.h"
#include "export/sharded_checkpoint.h"
#include "export/test_support.h"

namespace vernier::exporting::testing {

// A layout for files of so many ranks of each kind.
inline comm::Layout layout_of(int64_t tp, int64_t pp, int64_t ep) {
  return comm::Layout(tp * pp * ep, tp, pp, ep);
}

inline bool are_equal(const TensorView& left, const TensorView& right) {
  return left.dtype == right.dtype && left.shape == right.shape &&
         std::memcmp(left.data, right.data, static_cast<size_t>(left.size_bytes())) == 0;
}

class ShardedTest : public ::testing::Test {
 protected:
  explicit ShardedTest(const fs::path& checkpoint = golden("latent/checkpoint"))
      : source_(checkpoint) {}

  ShardedWriterOptions writer_options(const std::string& name,
                                      const comm::Layout& layout = {}) const {
    ShardedWriterOptions options;
    options.directory = temp_.make(name);
    options.source = source_.directory;
    options.recipe_name = "test recipe";
    options.mamba_ssm_cache_dtype = "float16";
    options.layout = layout;
    return options;
  }

  fs::path write(const std::string& name, const quant::QuantPlan& plan,
                 const comm::Layout& layout = {}) const {
    const ShardedWriterOptions options = writer_options(name, layout);
    auto sink = make_sharded_writer(options, source_.tree(), plan, source_.decls());
    feed(*sink, source_, plan);
    sink->finish();
    return options.directory;
  }

  // The same tensors, in files of another layout.
  fs::path reshard(const std::string& name, const ShardedCheckpoint& checkpoint,
                   const comm::Layout& layout) const {
    const ShardedWriterOptions options = writer_options(name, layout);
    auto sink = make_sharded_writer(options, checkpoint.stored.model->tree(), checkpoint.plan,
                                    checkpoint.source_tensors());
    checkpoint.copy_to(*sink);
    sink->finish();
    return options.directory;
  }

  HfWriterOptions export_options(const std::string& name, const fs::path& source) const {
    HfWriterOptions options;
    options.directory = temp_.make(name);
    options.source = source;
    options.max_shard_bytes = 100'000;
    options.mamba_ssm_cache_dtype = "float16";
    return options;
  }

  fs::path export_to(const std::string& name, const ShardedCheckpoint& checkpoint) const {
    const HfWriterOptions options = export_options(name, checkpoint.stored.directory);
    auto sink = make_hf_writer(options, checkpoint.stored.model->tree(), checkpoint.plan,
                               checkpoint.source_tensors());
    checkpoint.copy_to(*sink);
    sink->finish();
    return options.directory;
  }

  fs::path export_directly(const std::string& name, const quant::QuantPlan& plan) const {
    const HfWriterOptions options = export_options(name, source_.directory);
    auto sink = make_hf_writer(options, source_.tree(), plan, source_.decls());
    feed(*sink, source_, plan);
    sink->finish();
    return options.directory;
  }

  TempDir temp_;
  Source source_;
};

}  // namespace vernier::exporting::testing
