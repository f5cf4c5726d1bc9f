#include "export/hf_writer.h"

#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "export/config_text.h"
#include "export/hf_config.h"
#include "export/output_plan.h"
#include "export/sidecar.h"
#include "export/tensor_sink.h"
#include "io/json.h"

namespace vernier::exporting {
namespace {

constexpr char kIndexName[] = "model.safetensors.index.json";

std::string_view torch_name(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kF32:
      return "float32";
    default:
      throw Error(
          ErrorKind::kInvalidArgument,
          fmt::format("--dtype {}: expected bfloat16, float16 or float32", dtype_info(dtype).name));
  }
}

// transformers calls the key dtype since version 4.56 and torch_dtype before; either may be there.
void set_dtype(std::vector<ObjectMember>& config, DType dtype) {
  const std::string value = fmt::format("\"{}\"", torch_name(dtype));
  bool is_set = false;
  for (ObjectMember& member : config) {
    if (member.key != "dtype" && member.key != "torch_dtype") continue;
    member.value = value;
    is_set = true;
  }
  if (!is_set) config.push_back({"torch_dtype", value});
}

class HfWriter : public TensorSink {
 public:
  HfWriter(const HfWriterOptions& options, const model::ModuleTree& tree,
           const quant::QuantPlan& plan, std::vector<OutputTensor> tensors,
           std::vector<TensorFile> files, std::string config_text)
      : TensorSink({options.directory, ScalarForm::kScale, options.arithmetic, options.resume},
                   plan, whole_in(files)),
        options_(options),
        tensors_(std::move(tensors)),
        files_(std::move(files)),
        config_text_(std::move(config_text)),
        hf_quant_config_(hf_quant_config(plan, tree, mtp_prefixes())) {}

 private:
  std::vector<std::string> mtp_prefixes() const {
    std::vector<std::string> loose;
    for (const OutputTensor& tensor : tensors_) {
      if (tensor.owner == nullptr) loose.push_back(tensor.decl.name);
    }
    return find_mtp_prefixes(loose);
  }

  void write_descriptions() override {
    if (files_.size() > 1) {
      write_file(directory() / kIndexName, io::dump_json(shard_index(tensors_, files_), 2) + '\n');
    }
    const bool is_quantized = describes_quantization(hf_quant_config_);
    if (is_quantized) {
      write_file(directory() / "hf_quant_config.json", io::dump_json(hf_quant_config_, 4));
    }
    copy_sidecars(options_.source, directory());
    write_file(directory() / "config.json", config(is_quantized));
  }

  std::string config(bool is_quantized) const {
    std::vector<ObjectMember> members = split_object(config_text_);
    remove_member(members, "quantization_config");
    if (options_.dtype) set_dtype(members, *options_.dtype);
    if (!options_.mamba_ssm_cache_dtype.empty()) {
      set_member(members, "mamba_ssm_cache_dtype",
                 fmt::format("\"{}\"", options_.mamba_ssm_cache_dtype));
    }
    if (is_quantized) {
      members.push_back(
          {"quantization_config", io::dump_json(quantization_config(hf_quant_config_))});
    }
    return join_object(members);
  }

  HfWriterOptions options_;
  std::vector<OutputTensor> tensors_;
  std::vector<TensorFile> files_;
  std::string config_text_;
  io::Json hf_quant_config_;
};

// The text of the source's config.json, checked to be an object.
std::string read_config_text(const std::filesystem::path& path) {
  std::string text = read_file(path);
  if (!io::parse_json(text, path.string()).is_object()) {
    throw Error(ErrorKind::kCorrupt, fmt::format("{}: expected a JSON object", path.string()));
  }
  return text;
}

}  // namespace

std::unique_ptr<quant::QuantizedSink> make_hf_writer(const HfWriterOptions& options,
                                                     const model::ModuleTree& tree,
                                                     const quant::QuantPlan& plan,
                                                     const std::vector<io::TensorDecl>& tensors) {
  if (options.dtype) torch_name(*options.dtype);  // rejects a type no configuration can name
  std::string config_text = read_config_text(options.source / "config.json");
  std::vector<OutputTensor> outputs =
      plan_output(tree, plan, tensors, ScalarForm::kScale, options.dtype);
  std::vector<TensorFile> files = split_into_shards(outputs, options.max_shard_bytes);
  return std::make_unique<HfWriter>(options, tree, plan, std::move(outputs), std::move(files),
                                    std::move(config_text));
}

}  // namespace vernier::exporting
