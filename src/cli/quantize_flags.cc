#include "cli/quantize_flags.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/export_dtype.h"

namespace vernier::cli {
namespace {

void declare_what(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("--hf-model-id", flags.model,
                 "BF16 checkpoint: a directory, or an id in the local Hugging Face cache")
      ->required();
  auto* preset = app.add_option("--export-quant-cfg", flags.recipe,
                                "recipe by name (see vernier recipes) or file");
  app.add_option("--recipe", flags.recipe, "the same")->excludes(preset);
  app.add_option(
         "--auto-quantize-bits", flags.auto_quantize_bits,
         "search formats within so many bits a weight first (vernier search has more flags)")
      ->check(CLI::PositiveNumber)
      ->excludes(preset)
      ->excludes("--recipe");
  app.add_flag("--weight-only", flags.weight_only, "leave inputs unquantized; needs no text");
  app.add_flag("--export-kv-cache-quant", flags.export_kv_cache_quant,
               "quantize the KV cache to FP8");
  app.add_option("--kv-cache-format", flags.kv_cache_format,
                 "KV cache: none, fp8, fp8_cast, nvfp4 [the recipe's, else none]");
  app.add_option("--unquantizable", flags.unquantizable,
                 "bf16: leave modules whose width does not fit their format in BF16 [an error]");
}

void declare_calibration(CLI::App& app, QuantizeFlags& flags) {
  declare_calibration_flags(app, flags.calibration);
  app.add_option("--calib-all-experts-ratio", flags.calib_all_experts_ratio,
                 "share of a layer's experts that each token visits for statistics; 0: as routed")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
}

void declare_outputs(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("--megatron-save-path", flags.sharded_dir,
                 "sharded checkpoint to create [{model}_quantized_{cfg}, without --export-dir]");
  app.add_option("--export-dir", flags.export_dir, "Hugging Face checkpoint to create");
  app.add_option("--export-arithmetic", flags.export_arithmetic,
                 "whose divisions the stored scales repeat: cuda (as released checkpoints) or cpu")
      ->check(CLI::IsMember({"cuda", "cpu"}))
      ->capture_default_str();
  app.add_option("--dtype", flags.dtype,
                 "type of unquantized tensors: auto (as in the source), bfloat16, float16, float32")
      ->capture_default_str();
  app.add_option("--mamba-ssm-cache-dtype", flags.mamba_ssm_cache_dtype,
                 "SSM cache type that servers read from config.json: float32, float16, bfloat16 "
                 "[the recipe's, else the source's]");
  app.add_option("--max-shard-size", flags.max_shard_size, "largest safetensors file (10GB, 5GiB)")
      ->capture_default_str();
  app.add_option("--report", flags.report, "also write the report by module to this JSON file");
  app.add_flag("--restart", flags.restart, "discard what an interrupted run left, start over");
}

void declare_running(CLI::App& app, QuantizeFlags& flags) {
  declare_device_flags(app, flags.device);
  app.add_flag("--plan", flags.plan_only, "print coverage, memory, bytes and time, then stop");
  app.add_option("--max-memory", flags.max_memory,
                 "memory the job may allocate (8GB) [60 % of what is free]");
  declare_rank_flags(app, flags.ranks);
  app.add_option("--prompts", flags.generation.prompts,
                 "generate from these afterwards, separated by |")
      ->capture_default_str();
  app.add_option("--osl", flags.generation.max_tokens, "most new tokens per prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--skip-generate", flags.skip_generate, "do not generate afterwards");
  app.add_flag("--trust-remote-code", flags.trust_remote_code,
               "accepted; nothing remote is ever run");
}

}  // namespace

void declare_quantize_flags(CLI::App& app, QuantizeFlags& flags) {
  declare_what(app, flags);
  declare_calibration(app, flags);
  declare_outputs(app, flags);
  declare_running(app, flags);
}

void check_quantize_flags(const QuantizeFlags& flags) {
  if (flags.recipe.empty() && flags.auto_quantize_bits == 0) {
    throw Error(ErrorKind::kInvalidArgument,
                "--export-quant-cfg: missing, expected a recipe (vernier recipes lists them) or "
                "--auto-quantize-bits");
  }
  if (flags.export_kv_cache_quant && !flags.kv_cache_format.empty()) {
    throw Error(ErrorKind::kInvalidArgument,
                "--export-kv-cache-quant and --kv-cache-format: found both, expected one");
  }
  if (!flags.unquantizable.empty() && flags.unquantizable != "bf16") {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("--unquantizable: '{}', expected bf16", flags.unquantizable));
  }
  if (!flags.sharded_dir.empty() && flags.sharded_dir == flags.export_dir) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("--megatron-save-path and --export-dir: both are {}, expected two "
                            "directories",
                            flags.export_dir));
  }
  parse_export_dtype(flags.dtype);
  check_ssm_cache_dtype(flags.mamba_ssm_cache_dtype);
}

}  // namespace vernier::cli
