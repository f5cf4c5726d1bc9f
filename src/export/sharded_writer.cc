#include <utility>

#include "base/file.h"
#include "export/output_plan.h"
#include "export/sharded_checkpoint.h"
#include "export/sidecar.h"
#include "export/tensor_sink.h"
#include "io/json.h"

namespace vernier::exporting {
namespace {

// The files of the only layout there is yet: one dense and one expert rank.
constexpr char kDenseName[] = "dense-pp00-tp00.safetensors";
constexpr char kExpertsName[] = "experts-pp00-ep00.safetensors";

std::vector<TensorFile> lay_out(const std::vector<OutputTensor>& tensors) {
  TensorFile dense{kDenseName, {}};
  TensorFile experts{kExpertsName, {}};
  for (const OutputTensor& tensor : tensors) {
    const bool is_expert = tensor.owner != nullptr && tensor.owner->expert >= 0;
    (is_expert ? experts : dense).tensors.push_back(tensor.decl);
  }
  std::vector<TensorFile> files = {std::move(dense)};
  if (!experts.tensors.empty()) files.push_back(std::move(experts));
  return files;
}

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

std::vector<SlicedTensor> whole_slices(const std::vector<TensorFile>& files) {
  std::vector<SlicedTensor> tensors;
  for (const TensorFile& file : files) {
    for (const io::TensorDecl& decl : file.tensors) {
      const std::vector<int64_t> start(decl.shape.size(), 0);
      tensors.push_back({decl.name, decl.dtype, decl.shape, {{file.name, start, decl.shape}}});
    }
  }
  return tensors;
}

class ShardedWriter : public TensorSink {
 public:
  ShardedWriter(const ShardedWriterOptions& options, const quant::QuantPlan& plan,
                const std::vector<TensorFile>& files, std::string model_config)
      : TensorSink({options.directory, ScalarForm::kAmax, options.arithmetic, options.resume}, plan,
                   files),
        source_(options.source) {
    manifest_.recipe_name = options.recipe_name;
    manifest_.arithmetic = options.arithmetic;
    manifest_.mamba_ssm_cache_dtype = options.mamba_ssm_cache_dtype;
    manifest_.source = std::filesystem::absolute(options.source).lexically_normal();
    manifest_.source_files = identify_source(options.source);
    manifest_.model_config = std::move(model_config);
    manifest_.sites = site_records(plan);
    manifest_.kv = kv_records(plan);
    for (const model::Module* module : plan.left_unquantized) {
      manifest_.left_unquantized.push_back(module->name);
    }
    manifest_.tensors = whole_slices(files);
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
  const std::vector<TensorFile> files =
      lay_out(plan_output(tree, plan, tensors, ScalarForm::kAmax));
  return std::make_unique<ShardedWriter>(options, plan, files, std::move(config));
}

}  // namespace vernier::exporting
