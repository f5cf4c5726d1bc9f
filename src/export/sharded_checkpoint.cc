#include "export/sharded_checkpoint.h"

#include <fmt/format.h>

#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "export/output_plan.h"
#include "io/json.h"

namespace vernier::exporting {
namespace {

using model::Module;

// The recorded sites as a plan over the tree, in network order.
quant::QuantPlan plan_of(const Manifest& manifest, const model::ModuleTree& tree,
                         const std::string& path) {
  std::unordered_map<std::string, const SiteRecord*> records;
  for (const SiteRecord& site : manifest.sites) records.emplace(site.module, &site);
  quant::QuantPlan plan;
  for (const Module& module : tree.modules()) {
    if (!module.has_matrix()) continue;
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
void check_complete(const ShardedWeights& weights, const model::ModuleTree& tree) {
  for (const Module& module : tree.modules()) weights.check(module);
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
    decls.push_back(tensors->decl(name));
  }
  return decls;
}

void ShardedCheckpoint::copy_to(quant::QuantizedSink& sink, comm::Share part) const {
  int64_t turn = 0;
  const auto is_own = [&] { return turn++ % part.count == part.index; };
  for (const quant::SitePlan& site : plan.sites) {
    if (site.is_quantized() && is_own()) copy_site(site, sink);
  }
  for (const quant::KvPlan& kv : plan.kv) {
    if (kv.format == nullptr || kv.is_cast || !is_own()) continue;
    sink.write_kv_amax(*kv.site, weights->amax(k_scalar_name(*kv.site, ScalarForm::kAmax)),
                       weights->amax(v_scalar_name(*kv.site, ScalarForm::kAmax)));
  }
  for (const std::string& name : copied_names(*this)) {
    if (is_own()) sink.copy_tensor(name, tensors->whole(name).view);
  }
}

void ShardedCheckpoint::copy_site(const quant::SitePlan& site, quant::QuantizedSink& sink) const {
  const Module& module = *site.module;
  sink.write_weight(module, weights->linear(module).packed);
  weights->done_with(module);
  if (site.input_format == nullptr) return;
  sink.write_input_amax(module, weights->amax(input_scalar_name(module, ScalarForm::kAmax)));
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

ShardedCheckpoint open_sharded(const std::filesystem::path& directory, const comm::Ranks* ranks) {
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
  stored.model = model::open_model(stored.config, path.string(), ranks);
  stored.eos_token_ids = model::read_eos_token_ids(directory, stored.config);
  checkpoint.plan = plan_of(manifest, stored.model->tree(), path.string());
  stored.is_quantized = is_quantized(checkpoint.plan);
  checkpoint.weights = std::make_shared<ShardedWeights>(checkpoint.tensors, manifest);
  stored.weights = checkpoint.weights;
  check_complete(*checkpoint.weights, stored.model->tree());
  return checkpoint;
}

}  // namespace vernier::exporting
