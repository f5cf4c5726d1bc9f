// vernier export: a sharded checkpoint becomes a Hugging Face one.
#include <fmt/format.h>

#include "base/error.h"
#include "cli/byte_size.h"
#include "cli/command.h"
#include "cli/export_dtype.h"
#include "cli/model_path.h"
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
  int64_t pp = 1;
};

int run(const Flags& flags, Console& console) {
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

  // Copying is quick to repeat: what an interrupted export left is discarded.
  StagedOutputs outputs({flags.export_dir}, {{"command", "export"}}, true);
  options.directory = outputs.staging_path(0);
  const auto sink = exporting::make_hf_writer(options, sharded.stored.model->tree(), sharded.plan,
                                              sharded.source_tensors());
  sharded.copy_to(*sink);
  sink->finish();
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
  app.add_option("--pp", flags->pp, "pipeline ranks; only 1 works yet")
      ->check(CLI::Range(1, 1))
      ->capture_default_str();
  app.add_flag("--trust-remote-code", flags->trust_remote_code,
               "accepted; nothing remote is ever run");
  return [flags](Console& console) { return run(*flags, console); };
}

}  // namespace vernier::cli
