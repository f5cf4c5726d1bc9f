// vernier.json: what a sharded checkpoint says about itself. Key by key:
// docs/sharded_checkpoint.md.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "export/slices.h"
#include "formats/format.h"
#include "io/json_fwd.h"

namespace vernier::exporting {

inline constexpr char kManifestName[] = "vernier.json";
// Readers of the first version know only tensors that are whole in one file; what lies so is still
// written for them.
inline constexpr int kWholeTensorsVersion = 1;
inline constexpr int kSlicedTensorsVersion = 2;

// How many ranks of each kind a checkpoint's files are laid out for.
struct RankCounts {
  int64_t tp = 1;
  int64_t pp = 1;
  int64_t ep = 1;

  bool operator==(const RankCounts&) const = default;
};

// How a module was quantized, by registry names.
struct SiteRecord {
  std::string module;
  const formats::Format* weight_format = nullptr;
  formats::ScaleRule scale_rule;
  const formats::Format* input_format = nullptr;  // null: not rounded
  std::optional<float> constant_input_amax;
  std::string weight_rule;
  std::string input_rule;
};

struct KvRecord {
  std::string site;
  const formats::Format* format = nullptr;  // null: unquantized
  bool is_cast = false;
  std::string rule;
};

// One of the source's weight files, as far as it identifies the source.
struct SourceFile {
  std::string name;
  int64_t size_bytes = 0;
  std::string header_hash;  // xxHash64 of the length and the JSON header, 16 hexadecimal digits

  bool operator==(const SourceFile&) const = default;
};

struct Manifest {
  std::string recipe_name;
  formats::Arithmetic arithmetic = formats::Arithmetic::kCuda;
  std::string mamba_ssm_cache_dtype;
  RankCounts ranks;
  std::filesystem::path source;
  std::vector<SourceFile> source_files;
  std::string model_config;  // JSON text, as the source spells it
  std::vector<SiteRecord> sites;
  std::vector<KvRecord> kv;
  std::vector<std::string> left_unquantized;
  std::vector<SlicedTensor> tensors;
};

// The identity of a checkpoint directory's *.safetensors files, by name.
std::vector<SourceFile> identify_source(const std::filesystem::path& directory);

std::string manifest_text(const Manifest& manifest);
// Throws Corrupt or Unsupported, naming file and key.
Manifest read_manifest(const std::filesystem::path& path);

}  // namespace vernier::exporting
