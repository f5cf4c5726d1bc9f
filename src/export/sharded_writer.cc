#include <utility>

#include "base/file.h"
#include "export/output_plan.h"
#include "export/rank_files.h"
#include "export/sharded_checkpoint.h"
#include "export/sidecar.h"
#include "export/tensor_sink.h"
#include "io/json.h"

namespace vernier::exporting {
namespace {

std::vector<SiteRecord> site_records(const quant::QuantPlan& plan) {
  std::vector<SiteRecord> records;
  for (const quant::SitePlan& site : plan.sites) {
    records.push_back({site.module->name, site.weight_format, site.scale_rule, site.input_format,
                       site.constant_input_amax, site.weight_rule, site.input_rule});
  }
  return records;
}

std::vector<KvRecord> kv_records(const quant::QuantPlan& plan) {
  std::vector<KvRecord> records;
  for (const quant::KvPlan& kv : plan.kv) {
    records.push_back({kv.site->name, kv.format, kv.is_cast, kv.rule});
  }
  return records;
}

class ShardedWriter : public TensorSink {
 public:
  ShardedWriter(const ShardedWriterOptions& options, const quant::QuantPlan& plan,
                std::vector<SlicedTensor> tensors, std::string model_config)
      : TensorSink({options.directory, ScalarForm::kAmax, options.arithmetic, options.resume}, plan,
                   tensors),
        source_(options.source) {
    manifest_.recipe_name = options.recipe_name;
    manifest_.arithmetic = options.arithmetic;
    manifest_.mamba_ssm_cache_dtype = options.mamba_ssm_cache_dtype;
    manifest_.ranks = {options.layout.tp(), options.layout.pp(), options.layout.ep()};
    manifest_.source = std::filesystem::absolute(options.source).lexically_normal();
    manifest_.source_files = identify_source(options.source);
    manifest_.model_config = std::move(model_config);
    manifest_.sites = site_records(plan);
    manifest_.kv = kv_records(plan);
    for (const model::Module* module : plan.left_unquantized) {
      manifest_.left_unquantized.push_back(module->name);
    }
    manifest_.tensors = std::move(tensors);
  }

 private:
  void write_descriptions() override {
    copy_sidecars(source_, directory());
    write_file(directory() / "config.json", manifest_.model_config);
    write_file(directory() / kManifestName, manifest_text(manifest_));
  }

  std::filesystem::path source_;
  Manifest manifest_;
};

}  // namespace

std::unique_ptr<quant::QuantizedSink> make_sharded_writer(
    const ShardedWriterOptions& options, const model::ModuleTree& tree,
    const quant::QuantPlan& plan, const std::vector<io::TensorDecl>& tensors) {
  const std::filesystem::path config_path = options.source / "config.json";
  std::string config = read_file(config_path);
  io::parse_json(config, config_path.string());  // rejects what could not be read back
  std::vector<SlicedTensor> sliced =
      cut_over_ranks(plan_output(tree, plan, tensors, ScalarForm::kAmax), tree, options.layout);
  return std::make_unique<ShardedWriter>(options, plan, std::move(sliced), std::move(config));
}

}  // namespace vernier::exporting
