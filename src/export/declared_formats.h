// What a checkpoint's configuration says about its modules, read as vLLM reads it.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/json_fwd.h"
#include "quant/glob.h"

namespace vernier::exporting {

// The entries of an exclude list. vLLM takes a trailing "x*" for "x" and "x.*", and applies every
// entry in three ways: as the name itself, as a substring of it, as a glob. The substring is the
// trap: the entry "model.layers.1" also excludes layer 10.
class ExcludeList {
 public:
  explicit ExcludeList(std::vector<std::string> entries);

  // The first entry that excludes the module, null when none does.
  const std::string* find(const std::string& module) const;

 private:
  struct Pattern {
    size_t entry;
    std::string text;
    quant::Glob glob;
  };
  std::vector<std::string> entries_;
  std::vector<Pattern> patterns_;
};

class DeclaredFormats {
 public:
  // Nothing is quantized.
  DeclaredFormats() : excluded_({}) {}
  // `quantization` is the object of that name in hf_quant_config.json. REQUIRES: its types are
  // right (check_quantization_object finds nothing).
  explicit DeclaredFormats(const io::Json& quantization);

  bool is_mixed() const { return is_mixed_; }
  // quant_algo of the whole, empty for none.
  const std::string& algorithm() const { return algorithm_; }
  // kv_cache_quant_algo, empty for none.
  const std::string& kv_algorithm() const { return kv_algorithm_; }
  // The algorithm of one module, empty when it is declared unquantized. An expert may be listed by
  // itself or through its container ("...mixer.experts").
  std::string algorithm_of(const std::string& module) const;
  const ExcludeList& excluded() const { return excluded_; }
  // Mixed: module -> algorithm.
  const std::unordered_map<std::string, std::string>& layers() const { return layers_; }

 private:
  bool is_mixed_ = false;
  std::string algorithm_;
  std::string kv_algorithm_;
  ExcludeList excluded_;
  std::unordered_map<std::string, std::string> layers_;
};

// Checks that the object has the keys and types that readers rely on. One sentence a violation,
// each beginning with `origin`.
std::vector<std::string> check_quantization_object(const io::Json& quantization,
                                                   const std::string& origin);

// The same object out of config.json's quantization_config, for a checkpoint that has only that.
io::Json quantization_from_config(const io::Json& quantization_config);

}  // namespace vernier::exporting
