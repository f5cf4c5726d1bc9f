#include "export/output_plan.h"

#include <fmt/format.h>

#include <map>
#include <unordered_map>

#include "base/error.h"
#include "export/json_object.h"

namespace vernier::exporting {
namespace {

using model::Module;
using model::ModuleKind;

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

// A router's tensors beside its weight: the correction bias, which must stay in FP32.
bool is_router_buffer(const Module& module, size_t tensor_index) {
  return module.kind == ModuleKind::kRouter && tensor_index > 0;
}

class Planner {
 public:
  Planner(const quant::QuantPlan& plan, const std::vector<io::TensorDecl>& source, ScalarForm form,
          std::optional<DType> dtype)
      : form_(form), dtype_(dtype) {
    for (const io::TensorDecl& decl : source) source_.emplace(decl.name, &decl);
    for (const quant::SitePlan& site : plan.sites) {
      if (site.is_quantized()) sites_.emplace(site.module->name, &site);
    }
  }

  void add_module(const Module& module) {
    const auto site = sites_.find(module.name);
    if (site == sites_.end()) {
      add_copies(module, 0);
    } else {
      require_weight(module);
      add_quantized(*site->second);
    }
  }

  void add_kv(const quant::KvPlan& kv, const model::ModuleTree& tree) {
    if (kv.format == nullptr || kv.is_cast) return;
    add_scalar(k_scalar_name(*kv.site, form_), tree.find(kv.site->k_proj));
    add_scalar(v_scalar_name(*kv.site, form_), tree.find(kv.site->v_proj));
  }

  void add_loose(const io::TensorDecl& decl) { outputs_.push_back({decl, nullptr, false}); }

  std::vector<OutputTensor> take() { return std::move(outputs_); }

 private:
  void require_weight(const Module& module) const {
    const std::string& weight = module.tensors.at(0).name;
    if (source_.count(weight) == 0) {
      throw Error(
          ErrorKind::kNotFound,
          fmt::format("{}: the source checkpoint has no tensor of this name, but the recipe "
                      "quantizes it",
                      weight));
    }
  }

  void add_quantized(const quant::SitePlan& site) {
    const Module& module = *site.module;
    const auto planes = site.weight_format->planes;
    for (size_t index = 0; index < planes.size(); ++index) {
      outputs_.push_back({{plane_name(module, planes[index]), planes[index].dtype,
                           planes[index].shape(module.n, module.k)},
                          &module,
                          index == 0,
                          plane_cut(module, *site.weight_format, planes[index])});
      if (index == 0) add_copies(module, 1);
      if (index == 1 && site.input_format != nullptr) {
        add_scalar(input_scalar_name(module, form_), &module);
      }
    }
  }

  // The module's tensors from `first` on, as far as the source has them.
  void add_copies(const Module& module, size_t first) {
    for (size_t index = first; index < module.tensors.size(); ++index) {
      const model::TensorSpec& spec = module.tensors[index];
      const auto found = source_.find(spec.name);
      if (found == source_.end()) continue;
      io::TensorDecl decl = *found->second;
      const bool is_buffer = is_router_buffer(module, index);
      if (dtype_ && is_float(decl.dtype) && !is_buffer) decl.dtype = *dtype_;
      // A tensor of another shape than the network's is not known to be cut.
      const model::Cut cut = decl.shape == spec.shape ? spec.cut : model::Cut();
      outputs_.push_back({std::move(decl), &module, !is_buffer, cut});
    }
  }

  void add_scalar(std::string name, const Module* owner) {
    outputs_.push_back({{std::move(name), DType::kF32, {}}, owner, false});
  }

  ScalarForm form_;
  std::optional<DType> dtype_;
  std::unordered_map<std::string, const io::TensorDecl*> source_;
  std::unordered_map<std::string, const quant::SitePlan*> sites_;
  std::vector<OutputTensor> outputs_;
};

// The position of the last module of every attention mixer, after which its KV scalars stand.
std::unordered_map<size_t, const quant::KvPlan*> kv_positions(const model::ModuleTree& tree,
                                                              const quant::QuantPlan& plan) {
  std::unordered_map<size_t, const quant::KvPlan*> positions;
  for (const quant::KvPlan& kv : plan.kv) {
    const std::string prefix = kv.site->name + ".";
    size_t last = tree.modules().size();
    for (size_t index = 0; index < tree.modules().size(); ++index) {
      const Module& module = tree.modules()[index];
      if (module.layer == kv.site->layer && module.name.compare(0, prefix.size(), prefix) == 0) {
        last = index;
      }
    }
    positions.emplace(last, &kv);
  }
  return positions;
}

void name_shards(std::vector<TensorFile>& files) {
  if (files.size() == 1) {
    files[0].name = "model.safetensors";
    return;
  }
  for (size_t index = 0; index < files.size(); ++index) {
    files[index].name = fmt::format("model-{:05}-of-{:05}.safetensors", index + 1, files.size());
  }
}

}  // namespace

std::string input_scalar_name(const model::Module& module, ScalarForm form) {
  return module.name + (form == ScalarForm::kScale ? ".input_scale" : ".input_amax");
}

std::string k_scalar_name(const model::AttentionSite& site, ScalarForm form) {
  return site.k_proj + (form == ScalarForm::kScale ? ".k_scale" : ".k_amax");
}

std::string v_scalar_name(const model::AttentionSite& site, ScalarForm form) {
  return site.v_proj + (form == ScalarForm::kScale ? ".v_scale" : ".v_amax");
}

std::string plane_name(const model::Module& module, const formats::PlaneSpec& plane) {
  return fmt::format("{}.{}", module.name, plane.suffix);
}

model::Cut plane_cut(const model::Module& module, const formats::Format& format,
                     const formats::PlaneSpec& plane) {
  model::Cut cut = module.tensors.front().cut;
  if (plane.role == formats::PlaneRole::kGlobalScale) return {};
  if (cut.kind != model::CutKind::kColumns) return cut;
  if (cut.unit % format.k_multiple != 0) return {};
  const int64_t inputs_per_column = module.k / plane.shape(module.n, module.k).back();
  for (int64_t& length : cut.segments) length /= inputs_per_column;
  cut.unit /= inputs_per_column;
  return cut;
}

std::vector<OutputTensor> plan_output(const model::ModuleTree& tree, const quant::QuantPlan& plan,
                                      const std::vector<io::TensorDecl>& source, ScalarForm form,
                                      std::optional<DType> dtype) {
  Planner planner(plan, source, form, dtype);
  const auto kv_after = kv_positions(tree, plan);
  for (size_t index = 0; index < tree.modules().size(); ++index) {
    planner.add_module(tree.modules()[index]);
    const auto kv = kv_after.find(index);
    if (kv != kv_after.end()) planner.add_kv(*kv->second, tree);
  }
  for (const io::TensorDecl& decl : source) {
    if (tree.owner_of(decl.name) == nullptr) planner.add_loose(decl);
  }
  return planner.take();
}

std::vector<TensorFile> split_into_shards(const std::vector<OutputTensor>& tensors,
                                          int64_t max_shard_bytes) {
  std::vector<TensorFile> files;
  TensorFile current;
  int64_t current_bytes = 0;
  for (const OutputTensor& tensor : tensors) {
    const int64_t bytes = tensor.decl.size_bytes();
    if (bytes > max_shard_bytes) {
      files.push_back({"", {tensor.decl}});
      continue;
    }
    if (current_bytes + bytes > max_shard_bytes) {
      files.push_back(std::move(current));
      current = {};
      current_bytes = 0;
    }
    current.tensors.push_back(tensor.decl);
    current_bytes += bytes;
  }
  if (!current.tensors.empty() || files.empty()) files.push_back(std::move(current));
  name_shards(files);
  return files;
}

io::Json shard_index(const std::vector<OutputTensor>& tensors,
                     const std::vector<TensorFile>& files) {
  int64_t n_parameters = 0;
  int64_t size_bytes = 0;
  for (const OutputTensor& tensor : tensors) {
    size_bytes += tensor.decl.size_bytes();
    if (tensor.is_parameter) n_parameters += n_elems(tensor.decl.shape);
  }
  std::map<std::string, std::string> file_of;
  for (const TensorFile& file : files) {
    for (const io::TensorDecl& decl : file.tensors) file_of.emplace(decl.name, file.name);
  }
  JsonObjectBuilder weight_map;
  for (const auto& [tensor, file] : file_of) weight_map.add(tensor, file);
  return {{"metadata", {{"total_parameters", n_parameters}, {"total_size", size_bytes}}},
          {"weight_map", weight_map.take()}};
}

}  // namespace vernier::exporting
