// What the tests of this room share: a temporary directory, the golden tiny networks, plans that
// name formats directly, and a stand-in for the quantizer that feeds a sink.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "formats/format.h"
#include "io/checkpoint.h"
#include "io/json.h"
#include "model/model.h"
#include "quant/plan.h"
#include "quant/sink.h"

namespace vernier::exporting::testing {

namespace fs = std::filesystem;

inline fs::path golden(const std::string& name) {
  return fs::path(VERNIER_SOURCE_DIR) / "tests" / "golden" / name;
}

class TempDir {
 public:
  TempDir() {
    std::string name = (fs::temp_directory_path() / "vernier-export-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TempDir() { fs::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  // A new empty folder in it.
  fs::path make(const std::string& name) const {
    fs::create_directories(path_ / name);
    return path_ / name;
  }

 private:
  fs::path path_;
};

// A BF16 checkpoint directory and its network.
struct Source {
  explicit Source(const fs::path& directory)
      : directory(directory),
        checkpoint(directory),
        model(model::open_model(io::read_json(directory / "config.json"), "config.json")) {}

  const model::ModuleTree& tree() const { return model->tree(); }
  std::vector<io::TensorDecl> decls() const {
    std::vector<io::TensorDecl> all;
    for (const std::string& name : checkpoint.names()) {
      const TensorView view = checkpoint.tensor(name);
      all.push_back({name, view.dtype, view.shape});
    }
    return all;
  }

  fs::path directory;
  io::Checkpoint checkpoint;
  std::unique_ptr<model::Model> model;
};

inline bool is_expert(const model::Module& module) { return module.expert >= 0; }
inline bool is_projection(const model::Module& module) {
  return module.kind == model::ModuleKind::kLinear && module.name != "lm_head";
}

struct SiteFormats {
  std::string weight = "bf16";
  std::string input;  // "" for none
};
using Assign = std::function<SiteFormats(const model::Module&)>;

inline quant::QuantPlan make_test_plan(const model::ModuleTree& tree, const Assign& assign,
                                       const std::string& kv = "", bool kv_is_cast = false) {
  quant::QuantPlan plan;
  for (const model::Module& module : tree.modules()) {
    if (!module.has_matrix()) continue;
    const SiteFormats formats = assign(module);
    quant::SitePlan site;
    site.module = &module;
    site.weight_format = formats::find_format(formats.weight);
    site.input_format = formats.input.empty() ? nullptr : formats::find_format(formats.input);
    site.weight_rule = "test";
    site.input_rule = "test";
    plan.sites.push_back(site);
  }
  for (const model::AttentionSite& site : tree.attentions()) {
    plan.kv.push_back({&site, kv.empty() ? nullptr : formats::find_format(kv), kv_is_cast, "test"});
  }
  return plan;
}

// Experts in NVFP4, other projections of Mamba and MoE layers in FP8, the rest in BF16.
inline SiteFormats mixed_formats(const model::Module& module) {
  if (is_expert(module)) return {"nvfp4", "nvfp4"};
  const bool is_fp8 = module.name.find("in_proj") != std::string::npos ||
                      module.name.find("out_proj") != std::string::npos ||
                      module.name.find("shared_experts") != std::string::npos;
  return is_fp8 ? SiteFormats{"fp8_e4m3", "fp8_e4m3"} : SiteFormats{};
}
inline SiteFormats all_nvfp4(const model::Module& module) {
  return is_projection(module) ? SiteFormats{"nvfp4", "nvfp4"} : SiteFormats{};
}
inline SiteFormats all_fp8(const model::Module& module) {
  return is_projection(module) ? SiteFormats{"fp8_e4m3", "fp8_e4m3"} : SiteFormats{};
}

// A stand-in for a calibrated maximum, different for every name.
inline float fake_amax(const std::string& name) {
  return 1.0f + static_cast<float>(std::hash<std::string>()(name) % 1000) / 64.0f;
}

// The largest |w| of the modules that are fused with this one.
inline float group_amax(const Source& source, const model::Module& module) {
  float amax = 0;
  for (const model::Module& other : source.tree().modules()) {
    const bool is_member = &other == &module || (!module.fusion_group.empty() &&
                                                 other.fusion_group == module.fusion_group);
    if (!is_member) continue;
    amax = std::max(amax, formats::scan_amax(source.checkpoint.tensor(other.tensors[0].name)).amax);
  }
  return amax;
}

// Sends a whole quantized model to the sink, without finishing it.
inline void feed(quant::QuantizedSink& sink, const Source& source, const quant::QuantPlan& plan) {
  std::map<std::string, bool> quantized;
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    const model::Module& module = *site.module;
    quantized[module.tensors[0].name] = true;
    formats::EncodeOptions options;
    options.rule = site.scale_rule;
    options.global_amax = group_amax(source, module);
    sink.write_weight(
        module,
        site.weight_format->encode(source.checkpoint.tensor(module.tensors[0].name), options)
            .view());
    // q, k and v see the same input.
    const std::string& input = module.fusion_group.empty() ? module.name : module.fusion_group;
    if (site.needs_input_amax()) sink.write_input_amax(module, fake_amax(input));
  }
  for (const quant::KvPlan& kv : plan.kv) {
    if (kv.format == nullptr || kv.is_cast) continue;
    sink.write_kv_amax(*kv.site, fake_amax(kv.site->k_proj), fake_amax(kv.site->v_proj));
  }
  for (const std::string& name : source.checkpoint.names()) {
    if (quantized.count(name) == 0) sink.copy_tensor(name, source.checkpoint.tensor(name));
  }
}

// File name -> bytes of a directory's files.
inline std::map<std::string, std::string> read_directory(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    files[entry.path().filename().string()] = read_file(entry.path());
  }
  return files;
}

// The message of the Error that `body` throws; fails the test when none is thrown.
template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.message();
  }
  ADD_FAILURE() << "no Error was thrown";
  return "";
}

// A tensor that a test can change.
struct LooseTensor {
  DType dtype = DType::kF32;
  Shape shape;
  std::string bytes;
};
using LooseTensors = std::map<std::string, LooseTensor>;

inline LooseTensor scalar(float value) {
  return {DType::kF32, {}, std::string(reinterpret_cast<const char*>(&value), sizeof value)};
}

// Rewrites model.safetensors of a directory after `edit` changed its tensors.
inline void edit_tensors(const fs::path& directory,
                         const std::function<void(LooseTensors&)>& edit) {
  LooseTensors tensors;
  {
    const io::Checkpoint checkpoint(directory);
    for (const std::string& name : checkpoint.names()) {
      const TensorView view = checkpoint.tensor(name);
      tensors[name] = {view.dtype, view.shape,
                       std::string(reinterpret_cast<const char*>(view.data),
                                   static_cast<size_t>(view.size_bytes()))};
    }
  }
  edit(tensors);
  std::vector<io::TensorDecl> decls;
  for (const auto& [name, tensor] : tensors) decls.push_back({name, tensor.dtype, tensor.shape});
  const fs::path path = directory / "model.safetensors";
  fs::remove(path);
  io::SafetensorsWriter writer(path, decls);
  for (const auto& [name, tensor] : tensors) {
    writer.write(name, std::as_bytes(std::span(tensor.bytes)));
  }
  writer.finish();
}

inline void edit_json(const fs::path& path, const std::function<void(io::Json&)>& edit) {
  io::Json json = io::read_json(path);
  edit(json);
  write_file(path, io::dump_json(json, 4));
}

}  // namespace vernier::exporting::testing
