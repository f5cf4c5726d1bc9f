// vernier export: a sharded checkpoint becomes a Hugging Face one.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/byte_size.h"
#include "cli/command.h"
#include "cli/export_dtype.h"
#include "cli/model_path.h"
#include "cli/rank_flags.h"
#include "cli/staged_output.h"
#include "export/hf_writer.h"
#include "export/sharded_checkpoint.h"
#include "report/units.h"

namespace vernier::cli {
namespace {

struct Flags {
  std::string sharded;
  std::string export_dir;
  std::string model;
  std::string max_shard_size = "10GB";
  std::string dtype = "auto";
  std::string mamba_ssm_cache_dtype;
  bool restart = false;
  bool trust_remote_code = false;
  RankFlags ranks;
};

int run(const Flags& flags, Console& console, const comm::Communicator& world) {
  const comm::Ranks ranks(
      world, comm::Layout(world.size(), flags.ranks.tp, flags.ranks.pp, flags.ranks.ep));
  if (!exporting::is_sharded_checkpoint(flags.sharded)) {
    throw Error(ErrorKind::kNotFound,
                fmt::format("--megatron-load-path: {} holds no vernier.json, expected a sharded "
                            "checkpoint",
                            flags.sharded));
  }
  const exporting::ShardedCheckpoint sharded = exporting::open_sharded(flags.sharded);
  exporting::HfWriterOptions options;
  options.source = flags.sharded;
  options.max_shard_bytes = parse_byte_size("--max-shard-size", flags.max_shard_size);
  options.arithmetic = sharded.arithmetic;
  options.mamba_ssm_cache_dtype = flags.mamba_ssm_cache_dtype.empty()
                                      ? sharded.mamba_ssm_cache_dtype
                                      : flags.mamba_ssm_cache_dtype;
  options.dtype = parse_export_dtype(flags.dtype);

  // Every rank copies its part, whatever the layout that the checkpoint was written in. Copying is
  // quick to repeat: what an interrupted export left is discarded.
  StagedOutputs outputs({flags.export_dir}, {{"command", "export"}}, true, ranks);
  options.directory = outputs.staging_path(0);
  const auto make_sink = [&](bool resume) {
    options.resume = resume;
    return exporting::make_hf_writer(options, sharded.stored.model->tree(), sharded.plan,
                                     sharded.source_tensors());
  };
  const auto sink = make_on_all(world, false, make_sink);
  sharded.copy_to(*sink, {world.rank(), world.size()});
  sink->sync();
  world.barrier();
  if (world.rank() == 0) sink->finish();
  outputs.commit();
  console.print(fmt::format("exported {} to {}", flags.sharded, flags.export_dir));
  return 0;
}

}  // namespace

Action declare_export(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("--megatron-load-path", flags->sharded, "sharded checkpoint directory")
      ->required();
  app.add_option("--export-dir", flags->export_dir, "directory to create")->required();
  app.add_option(
      "--hf-model-id", flags->model,
      "accepted as in the recipe's scripts; the sharded checkpoint holds what is needed");
  app.add_option("--max-shard-size", flags->max_shard_size, "largest safetensors file (10GB, 5GiB)")
      ->capture_default_str();
  app.add_option("--dtype", flags->dtype,
                 "type of unquantized tensors: auto (as in the source), bfloat16, float16, float32")
      ->capture_default_str();
  app.add_option("--mamba-ssm-cache-dtype", flags->mamba_ssm_cache_dtype,
                 "SSM cache type that servers read from config.json: float32, float16, bfloat16 "
                 "[the recipe's, else the source's]");
  declare_rank_flags(app, flags->ranks);
  app.add_flag("--trust-remote-code", flags->trust_remote_code,
               "accepted; nothing remote is ever run");
  return [flags](Console& console, const comm::Communicator& world) {
    return run(*flags, console, world);
  };
}

}  // namespace vernier::cli
