#include "export/sharded_checkpoint.h"

#include <fmt/format.h>

#include <cmath>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "export/output_plan.h"
#include "export/tensor_sink.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace vernier::exporting {
namespace {

using model::Module;

[[noreturn]] void reject(const SliceStore& store, std::string_view name, std::string_view what) {
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: {}: {}", store.directory().string(), name, what));
}

TensorView checked(const SliceStore& store, const std::string& name, DType dtype,
                   const Shape& shape) {
  const TensorView view = store.tensor(name);
  if (view.dtype != dtype || view.shape != shape) {
    reject(store, name,
           fmt::format("found {} {}, expected {} {}", dtype_info(view.dtype).name,
                       to_string(view.shape), dtype_info(dtype).name, to_string(shape)));
  }
  return view;
}

float read_positive(const SliceStore& store, const std::string& name) {
  const float value = checked(store, name, DType::kF32, {}).as<float>()[0];
  if (!std::isfinite(value) || value <= 0) {
    reject(store, name, fmt::format("is {}, expected a positive finite number", value));
  }
  return value;
}

formats::PackedView packed_view(const SliceStore& store, const Module& module,
                                const formats::Format& format) {
  formats::PackedView packed{&format, module.n, module.k, {}};
  const bool is_bf16 = &format == &formats::bf16_format();
  for (const formats::PlaneSpec& plane : format.planes) {
    const std::string name = plane_name(module, plane);
    // Unquantized weights keep the source's floating type.
    const DType dtype = is_bf16 ? store.tensor(name).dtype : plane.dtype;
    packed.planes[static_cast<size_t>(plane.role)] =
        checked(store, name, dtype, plane.shape(module.n, module.k));
    if (plane.role == formats::PlaneRole::kGlobalScale) read_positive(store, name);
  }
  return packed;
}

// Weights and scales out of the slices; scales are made from the stored maxima as an export makes
// them.
class ShardedWeights : public model::WeightSource {
 public:
  ShardedWeights(std::shared_ptr<const SliceStore> store, const Manifest& manifest)
      : store_(std::move(store)), arithmetic_(manifest.arithmetic) {
    for (const SiteRecord& site : manifest.sites) sites_.emplace(site.module, site);
    for (const KvRecord& kv : manifest.kv) kv_.emplace(kv.site, kv);
  }

  model::LinearWeight linear(const Module& module) const override {
    const SiteRecord& site = sites_.at(module.name);
    model::LinearWeight weight;
    weight.packed = packed_view(*store_, module, *site.weight_format);
    if (site.input_format != nullptr) {
      weight.input = {site.input_format, scale(input_scalar_name(module, ScalarForm::kAmax),
                                               site.input_format->input_divisor)};
    }
    return weight;
  }

  TensorView tensor(const model::TensorSpec& spec) const override {
    const TensorView view = store_->tensor(spec.name);
    if (view.shape != spec.shape) {
      reject(
          *store_, spec.name,
          fmt::format("has shape {}, expected {}", to_string(view.shape), to_string(spec.shape)));
    }
    return view;
  }

  model::KvRule kv_rule(const model::AttentionSite& site) const override {
    const auto found = kv_.find(site.name);
    if (found == kv_.end() || found->second.format == nullptr) return {};
    const KvRecord& kv = found->second;
    // What a server reads as k_scale, in the units that the format's rounding takes.
    const float ratio = kv.format->input_divisor / kKvDivisor;
    const auto stored = [&](const std::string& name) {
      return (kv.is_cast ? 1.0f : scale(name, kKvDivisor)) / ratio;
    };
    return {kv.format, stored(k_scalar_name(site, ScalarForm::kAmax)),
            stored(v_scalar_name(site, ScalarForm::kAmax))};
  }

  void will_need(const Module& module) const override { advise(module, io::advise_will_need); }
  void done_with(const Module& module) const override { advise(module, io::advise_done); }

 private:
  float scale(const std::string& amax_name, float divisor) const {
    return formats::scale_from_amax(read_positive(*store_, amax_name), divisor, arithmetic_);
  }

  template <class Advice>
  void advise(const Module& module, const Advice& advice) const {
    const auto site = sites_.find(module.name);
    if (site != sites_.end()) {
      for (const formats::PlaneSpec& plane : site->second.weight_format->planes) {
        advice(store_->tensor(plane_name(module, plane)).bytes());
      }
      return;
    }
    for (const model::TensorSpec& spec : module.tensors) {
      if (store_->contains(spec.name)) advice(store_->tensor(spec.name).bytes());
    }
  }

  std::shared_ptr<const SliceStore> store_;
  formats::Arithmetic arithmetic_;
  std::unordered_map<std::string, SiteRecord> sites_;
  std::unordered_map<std::string, KvRecord> kv_;
};

bool is_site(const Module& module) {
  return module.kind == model::ModuleKind::kLinear || module.kind == model::ModuleKind::kEmbedding;
}

// The recorded sites as a plan over the tree, in network order.
quant::QuantPlan plan_of(const Manifest& manifest, const model::ModuleTree& tree,
                         const std::string& path) {
  std::unordered_map<std::string, const SiteRecord*> records;
  for (const SiteRecord& site : manifest.sites) records.emplace(site.module, &site);
  quant::QuantPlan plan;
  for (const Module& module : tree.modules()) {
    if (!is_site(module)) continue;
    const auto found = records.find(module.name);
    if (found == records.end()) {
      throw Error(ErrorKind::kCorrupt,
                  fmt::format("{}: modules: has no entry for {}", path, module.name));
    }
    const SiteRecord& site = *found->second;
    plan.sites.push_back({&module, site.weight_format, site.scale_rule, site.input_format,
                          site.constant_input_amax, site.weight_rule, site.input_rule});
  }
  for (const KvRecord& kv : manifest.kv) {
    for (const model::AttentionSite& site : tree.attentions()) {
      if (site.name == kv.site) plan.kv.push_back({&site, kv.format, kv.is_cast, kv.rule});
    }
  }
  for (const std::string& name : manifest.left_unquantized) {
    if (const Module* module = tree.find(name)) plan.left_unquantized.push_back(module);
  }
  return plan;
}

// Everything that work with the checkpoint will ask for is there, so that none begins in vain.
void check_complete(const ShardedCheckpoint& checkpoint) {
  const model::WeightSource& weights = *checkpoint.stored.weights;
  const model::ModuleTree& tree = checkpoint.stored.model->tree();
  for (const Module& module : tree.modules()) {
    if (is_site(module)) {
      weights.linear(module);
    } else {
      for (const model::TensorSpec& spec : module.tensors) weights.tensor(spec);
    }
  }
  for (const model::AttentionSite& site : tree.attentions()) weights.kv_rule(site);
}

bool is_quantized(const quant::QuantPlan& plan) {
  for (const quant::SitePlan& site : plan.sites) {
    if (site.is_quantized()) return true;
  }
  return plan.kv_format() != nullptr;
}

// Which tensors are the sinks' own, rather than the source's: planes and calibrated maxima.
std::unordered_set<std::string> written_names(const quant::QuantPlan& plan) {
  std::unordered_set<std::string> names;
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    for (const formats::PlaneSpec& plane : site.weight_format->planes) {
      names.emplace(plane_name(*site.module, plane));
    }
    if (site.input_format) names.emplace(input_scalar_name(*site.module, ScalarForm::kAmax));
  }
  for (const quant::KvPlan& kv : plan.kv) {
    names.emplace(k_scalar_name(*kv.site, ScalarForm::kAmax));
    names.emplace(v_scalar_name(*kv.site, ScalarForm::kAmax));
  }
  return names;
}

// The tensors that were copied from the source as they were.
std::vector<std::string> copied_names(const ShardedCheckpoint& checkpoint) {
  const auto written = written_names(checkpoint.plan);
  std::vector<std::string> copied;
  for (const std::string& name : checkpoint.tensors->names()) {
    if (written.count(name) == 0) copied.push_back(name);
  }
  return copied;
}

}  // namespace

std::vector<io::TensorDecl> ShardedCheckpoint::source_tensors() const {
  std::vector<io::TensorDecl> decls;
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    const model::TensorSpec& weight = site.module->tensors.front();
    decls.push_back({weight.name, DType::kBF16, weight.shape});
  }
  for (const std::string& name : copied_names(*this)) {
    const TensorView view = tensors->tensor(name);
    decls.push_back({name, view.dtype, view.shape});
  }
  return decls;
}

void ShardedCheckpoint::copy_to(quant::QuantizedSink& sink) const {
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    const Module& module = *site.module;
    sink.write_weight(module, packed_view(*tensors, module, *site.weight_format));
    if (site.input_format == nullptr) continue;
    sink.write_input_amax(module,
                          read_positive(*tensors, input_scalar_name(module, ScalarForm::kAmax)));
  }
  for (const quant::KvPlan& kv : plan.kv) {
    if (kv.format == nullptr || kv.is_cast) continue;
    sink.write_kv_amax(*kv.site,
                       read_positive(*tensors, k_scalar_name(*kv.site, ScalarForm::kAmax)),
                       read_positive(*tensors, v_scalar_name(*kv.site, ScalarForm::kAmax)));
  }
  for (const std::string& name : copied_names(*this)) {
    sink.copy_tensor(name, tensors->tensor(name));
  }
}

void ShardedCheckpoint::check_source(const std::filesystem::path& directory) const {
  const std::vector<SourceFile> found = identify_source(directory);
  if (found == source_files) return;
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: its weight files ({}) are not those that {} was made from ({} files "
                          "in {})",
                          directory.string(), found.size(), tensors->directory().string(),
                          source_files.size(), source.string()));
}

bool is_sharded_checkpoint(const std::filesystem::path& directory) {
  return std::filesystem::exists(directory / kManifestName);
}

ShardedCheckpoint open_sharded(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kManifestName;
  const Manifest manifest = read_manifest(path);
  ShardedCheckpoint checkpoint;
  checkpoint.recipe_name = manifest.recipe_name;
  checkpoint.mamba_ssm_cache_dtype = manifest.mamba_ssm_cache_dtype;
  checkpoint.arithmetic = manifest.arithmetic;
  checkpoint.source = manifest.source;
  checkpoint.source_files = manifest.source_files;
  checkpoint.tensors = std::make_shared<SliceStore>(directory, manifest.tensors);

  model::StoredModel& stored = checkpoint.stored;
  stored.directory = directory;
  stored.config = io::parse_json(manifest.model_config, path.string());
  stored.model = model::open_model(stored.config, path.string());
  stored.eos_token_ids = model::read_eos_token_ids(directory, stored.config);
  checkpoint.plan = plan_of(manifest, stored.model->tree(), path.string());
  stored.is_quantized = is_quantized(checkpoint.plan);
  stored.weights = std::make_shared<ShardedWeights>(checkpoint.tensors, manifest);
  check_complete(checkpoint);
  return checkpoint;
}

}  // namespace vernier::exporting
