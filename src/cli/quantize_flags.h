// The flags of `vernier quantize`; names are those of the recipe's quantize.py.
#pragma once

#include <cstdint>
#include <string>

#include "cli/app_fwd.h"
#include "cli/calibration.h"
#include "cli/device_flags.h"
#include "cli/generation.h"
#include "cli/rank_flags.h"

namespace vernier::cli {

struct QuantizeFlags {
  std::string model;
  std::string recipe;             // a name or a file
  double auto_quantize_bits = 0;  // instead of a recipe: search one first
  std::string sharded_dir;
  std::string export_dir;
  std::string kv_cache_format;  // empty: as the recipe says
  bool export_kv_cache_quant = false;
  bool weight_only = false;
  std::string unquantizable;
  // calibration
  CalibrationFlags calibration;
  double calib_all_experts_ratio = 0;
  // outputs
  std::string export_arithmetic = "cuda";
  std::string dtype = "auto";
  std::string mamba_ssm_cache_dtype;
  std::string max_shard_size = "10GB";
  std::string report;
  bool restart = false;
  // running
  DeviceFlags device;
  std::string max_memory;
  bool plan_only = false;
  bool skip_generate = false;
  bool trust_remote_code = false;
  RankFlags ranks;
  GenerationFlags generation;
};

void declare_quantize_flags(CLI::App& app, QuantizeFlags& flags);

// What the flags alone can contradict. Throws InvalidArgument or Unsupported, naming the flag.
void check_quantize_flags(const QuantizeFlags& flags);

}  // namespace vernier::cli
