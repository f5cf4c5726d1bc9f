// The check of a published checkpoint, one function per group of requirements. Where servers differ
// the strictest counts: a checkpoint that passes loads in vLLM, SGLang and TensorRT-LLM.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/error.h"
#include "export/declared_formats.h"
#include "export/hf_config.h"
#include "export/inspect.h"
#include "export/output_plan.h"
#include "export/published_names.h"
#include "export/sharded_checkpoint.h"
#include "io/checkpoint.h"
#include "model/model.h"

namespace vernier::exporting {
namespace {

using formats::Format;
using formats::PlaneRole;
using formats::PlaneSpec;
using io::Json;
using model::Module;
using model::ModuleKind;

constexpr char kQuantConfigName[] = "hf_quant_config.json";
constexpr char kIndexName[] = "model.safetensors.index.json";

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

bool is_mtp(const std::string& tensor) { return tensor.compare(0, 4, "mtp.") == 0; }

std::string module_of(const std::string& tensor) { return tensor.substr(0, tensor.rfind('.')); }

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

Json read_object(const std::filesystem::path& path) {
  Json json = io::read_json(path);
  if (json.is_object()) return json;
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: expected a JSON object", path.string()));
}

// The format whose codes have the element type of the weight; null for a type no format has.
const Format* format_of(const TensorView& weight) {
  if (is_float(weight.dtype)) return &formats::bf16_format();
  for (const Format* format : formats::all_formats()) {
    if (format->planes[0].dtype == weight.dtype) return format;
  }
  return nullptr;
}

class Verifier {
 public:
  explicit Verifier(std::filesystem::path directory) : directory_(std::move(directory)) {}

  std::vector<std::string> run() {
    if (!open()) return std::move(violations_);
    check_files();
    // Without a declaration that makes sense everything else would be a consequence.
    if (!check_configs()) return std::move(violations_);
    for (const Module& module : tree().modules()) {
      if (module.has_matrix()) {
        check_site(module);
      } else {
        check_unquantized(module);
      }
    }
    check_fused();
    check_experts();
    check_kv();
    check_mtp();
    check_listed_layers();
    check_names();
    return std::move(violations_);
  }

 private:
  template <class... Args>
  void add(fmt::format_string<Args...> text, Args&&... args) {
    violations_.push_back(fmt::format(text, std::forward<Args>(args)...));
  }

  const model::ModuleTree& tree() const { return model_->tree(); }

  std::optional<TensorView> find(const std::string& name) const {
    if (!checkpoint_->contains(name)) return {};
    return checkpoint_->tensor(name);
  }

  // "model-00001-of-00002.safetensors: P.weight"; the bare name when no file has it.
  std::string at(const std::string& tensor) const {
    if (!checkpoint_->contains(tensor)) return tensor;
    return fmt::format("{}: {}", checkpoint_->file_of(tensor).filename().string(), tensor);
  }

  // ---- files

  bool open() {
    try {
      const auto path = directory_ / "config.json";
      config_ = io::read_json(path);
      model_ = model::open_model(config_, path.string());
      checkpoint_.emplace(directory_);
      const auto quant_path = directory_ / kQuantConfigName;
      if (std::filesystem::exists(quant_path)) quant_config_ = read_object(quant_path);
      return true;
    } catch (const Error& error) {
      violations_.push_back(error.message());
      return false;
    }
  }

  void check_files() {
    std::set<std::string> known;
    int64_t n_bytes = 0;
    for (const io::SafetensorsFile& file : checkpoint_->files()) {
      const std::string name = file.path().filename().string();
      known.insert(name);
      const auto& metadata = file.header().metadata;
      const auto format = metadata.find("format");
      if (format == metadata.end() || format->second != "pt") {
        add("{}: __metadata__ has no \"format\": \"pt\", transformers refuses the file", name);
      }
      for (const io::TensorEntry& entry : file.header().entries) n_bytes += entry.end - entry.begin;
    }
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      const std::string name = entry.path().filename().string();
      if (!ends_with(name, ".safetensors") || known.count(name) != 0) continue;
      add("{}: is not part of the checkpoint, but servers that load every *.safetensors file read "
          "it",
          name);
    }
    check_total_size(n_bytes);
  }

  void check_total_size(int64_t n_bytes) {
    const auto path = directory_ / kIndexName;
    if (!std::filesystem::exists(path)) return;
    const Json index = io::read_json(path);
    const auto metadata = index.find("metadata");
    const bool has_size = metadata != index.end() && metadata->is_object() &&
                          metadata->contains("total_size") && (*metadata)["total_size"].is_number();
    if (!has_size) {
      add("{}: metadata has no total_size", kIndexName);
    } else if ((*metadata)["total_size"] != n_bytes) {
      add("{}: metadata.total_size is {}, the tensors have {} bytes", kIndexName,
          io::dump_json((*metadata)["total_size"]), n_bytes);
    }
  }

  // ---- configurations

  // False when what is declared cannot be told.
  bool check_configs() {
    const bool has_embedded =
        config_.contains("quantization_config") && config_["quantization_config"].is_object();
    if (quant_config_ && !has_embedded) {
      add("config.json: has no quantization_config although there is a {}; vLLM reads the former",
          kQuantConfigName);
    }
    if (!quant_config_ && has_embedded) {
      add("{}: is missing although config.json has a quantization_config; SGLang and TensorRT-LLM "
          "read the former",
          kQuantConfigName);
    }
    if (!quant_config_ && !has_embedded) return true;
    const Json quantization = quant_config_
                                  ? quant_config_->value("quantization", Json())
                                  : quantization_from_config(config_["quantization_config"]);
    auto found =
        check_quantization_object(quantization, quant_config_ ? kQuantConfigName : "config.json");
    const bool is_readable = found.empty();
    violations_.insert(violations_.end(), found.begin(), found.end());
    if (!is_readable) return false;
    declared_ = DeclaredFormats(quantization);
    if (has_embedded) check_embedded(config_["quantization_config"]);
    return true;
  }

  void check_embedded(const Json& embedded) {
    const Json method = embedded.value("quant_method", Json());
    if (!method.is_string() || method.get<std::string>().compare(0, 8, "modelopt") != 0) {
      add("config.json: quantization_config.quant_method is {}, expected \"modelopt\"",
          io::dump_json(method));
    }
    if (!quant_config_) return;
    if (!quant_config_->contains("producer")) {
      add("{}: has no producer, by which servers know the format", kQuantConfigName);
      return;
    }
    const Json expected = quantization_config(*quant_config_);
    for (const char* key : {"quant_algo", "ignore", "quantized_layers", "kv_cache_scheme"}) {
      if (embedded.value(key, Json()) != expected.value(key, Json())) {
        add("config.json: quantization_config.{} contradicts {}", key, kQuantConfigName);
      }
    }
  }

  // Mixed: every listed name is there.
  void check_listed_layers() {
    std::set<std::string> containers;
    for (const Module& module : tree().modules()) {
      const size_t end = module.name.rfind(".experts.");
      if (module.expert >= 0 && end != module.name.npos) {
        containers.insert(module.name.substr(0, end) + ".experts");
      }
    }
    std::set<std::string> unknown;
    for (const auto& [name, algorithm] : declared_.layers()) {
      if (tree().find(name) == nullptr && containers.count(name) == 0) unknown.insert(name);
    }
    for (const std::string& name : unknown) {
      add("{}: quantized_layers names {}, which the model does not have", kQuantConfigName, name);
    }
  }

  // ---- modules

  void check_site(const Module& module) {
    const std::string& weight_name = module.tensors[0].name;
    const auto weight = find(weight_name);
    if (!weight) {
      add("{} is missing", at(weight_name));
      return;
    }
    const Format* format = format_of(*weight);
    if (format == nullptr) {
      add("{} has the element type {}, which no format of this program has", at(weight_name),
          dtype_info(weight->dtype).name);
      return;
    }
    formats_.emplace(module.name, format);
    check_declaration(module, *format);
    if (format == &formats::bf16_format()) {
      check_unquantized(module);
    } else {
      check_planes(module, *format);
      check_input_scale(module, *format);
    }
  }

  // The configuration says of the module what its tensors are.
  void check_declaration(const Module& module, const Format& format) {
    const std::string algorithm = declared_.algorithm_of(module.name);
    const bool is_quantized = &format != &formats::bf16_format();
    if (module.kind == ModuleKind::kEmbedding) {
      if (is_quantized) {
        add("{} is in {}; vLLM builds the embedding without quantization and cannot load it",
            module.name, format.name);
      }
      return;
    }
    if (is_quantized && algorithm.empty()) {
      report_undeclared(module, format);
    } else if (!is_quantized && !algorithm.empty()) {
      add("{} is declared {} but its weight is not quantized{}", module.name, algorithm,
          declared_.is_mixed() ? "" : " and no entry of exclude_modules covers it");
    } else if (is_quantized && find_published(algorithm)->weight_format != format.name) {
      add("{} is declared {} but its weight is in {}", module.name, algorithm, format.name);
    }
  }

  void report_undeclared(const Module& module, const Format& format) {
    const std::string* entry = declared_.excluded().find(module.name);
    if (declared_.algorithm().empty()) {
      add("{} is in {} but no quant_algo is declared", module.name, format.name);
    } else if (declared_.is_mixed()) {
      add("{} is in {} but quantized_layers does not list it", module.name, format.name);
    } else {
      add("{} is in {} but the exclude_modules entry \"{}\" excludes it", module.name, format.name,
          entry == nullptr ? "" : *entry);
    }
  }

  void check_planes(const Module& module, const Format& format) {
    if (module.k % format.k_multiple != 0) {
      add("{} has {} inputs, {} needs a multiple of {}", module.name, module.k, format.name,
          format.k_multiple);
      return;
    }
    for (const PlaneSpec& plane : format.planes) {
      const std::string name = plane_name(module, plane);
      const auto view = find(name);
      if (!view) {
        add("{} is missing, {} weights need it", at(name), format.name);
        continue;
      }
      const Shape shape = plane.shape(module.n, module.k);
      if (view->dtype != plane.dtype || view->shape != shape) {
        add("{} is {} {}, expected {} {}", at(name), dtype_info(view->dtype).name,
            to_string(view->shape), dtype_info(plane.dtype).name, to_string(shape));
      } else if (plane.role == PlaneRole::kGlobalScale) {
        check_scale_value(name, *view);
      } else if (plane.dtype == DType::kF8E4M3) {
        check_e4m3(name, *view, plane.role == PlaneRole::kBlockScales);
      }
    }
  }

  // No NaN anywhere; a block scale is positive as well.
  void check_e4m3(const std::string& name, const TensorView& view, bool is_scale) {
    const auto codes = view.as<uint8_t>();
    int64_t n_bad = 0;
    size_t first = 0;
    for (size_t index = 0; index < codes.size(); ++index) {
      const bool is_nan = (codes[index] & 0x7F) == 0x7F;
      const bool is_not_positive = codes[index] == 0 || codes[index] >= 0x80;
      if (!is_nan && !(is_scale && is_not_positive)) continue;
      if (n_bad++ == 0) first = index;
    }
    if (n_bad == 0) return;
    add("{} holds {} {}, the first 0x{:02x} at element {}", at(name), n_bad,
        is_scale ? "block scales that are zero, negative or NaN" : "NaN codes", codes[first],
        first);
  }

  void check_scale_value(const std::string& name, const TensorView& view) {
    const float value = view.as<float>()[0];
    if (!std::isfinite(value) || value <= 0) {
      add("{} is {}, expected a positive finite number", at(name), value);
    }
  }

  void check_scalar(const std::string& name, const TensorView& view) {
    if (view.dtype != DType::kF32 || !view.shape.empty()) {
      add("{} is {} {}, expected F32 []", at(name), dtype_info(view.dtype).name,
          to_string(view.shape));
    } else {
      check_scale_value(name, view);
    }
  }

  void check_input_scale(const Module& module, const Format& format) {
    const std::string name = input_scalar_name(module, ScalarForm::kScale);
    if (const auto view = find(name)) {
      check_scalar(name, *view);
      return;
    }
    const PublishedAlgorithm* algorithm = find_published(declared_.algorithm_of(module.name));
    if (algorithm == nullptr || algorithm->input_format.empty()) return;
    add("{} is missing, {} layers cannot be loaded without it{}", at(name), algorithm->name,
        format.name == "fp8_e4m3" ? " (there is no weight-only FP8 in servers)" : "");
  }

  // Weights in a floating type and no quantizer's tensors beside them.
  void check_unquantized(const Module& module) {
    for (const model::TensorSpec& spec : module.tensors) {
      const auto view = find(spec.name);
      if (!view) {
        add("{} is missing", at(spec.name));
      } else if (!is_float(view->dtype)) {
        add("{} has the element type {}, servers expect it unquantized", at(spec.name),
            dtype_info(view->dtype).name);
      } else if (view->shape != spec.shape) {
        add("{} has shape {}, expected {}", at(spec.name), to_string(view->shape),
            to_string(spec.shape));
      }
    }
    for (const char* suffix : {"weight_scale", "weight_scale_2", "input_scale"}) {
      const std::string name = fmt::format("{}.{}", module.name, suffix);
      if (find(name)) add("{} stands beside a weight that is not quantized", at(name));
    }
    check_correction_bias(module);
  }

  void check_correction_bias(const Module& module) {
    if (module.kind != ModuleKind::kRouter) return;
    for (size_t index = 1; index < module.tensors.size(); ++index) {
      const auto view = find(module.tensors[index].name);
      if (view && view->dtype != DType::kF32) {
        add("{} has the element type {}, routers need F32", at(module.tensors[index].name),
            dtype_info(view->dtype).name);
      }
    }
  }

  // ---- groups of modules

  const Format* known_format(const Module& module) const {
    const auto found = formats_.find(module.name);
    return found == formats_.end() ? nullptr : found->second;
  }

  // Linears that a server fuses have one algorithm, and where there are block scales one global
  // scale: vLLM takes the largest and does not rescale the blocks.
  void check_fused() {
    std::map<std::string, std::vector<const Module*>> groups;
    for (const Module& module : tree().modules()) {
      if (!module.fusion_group.empty()) groups[module.fusion_group].push_back(&module);
    }
    for (const auto& [group, members] : groups) {
      for (const Module* member : members) check_fused_pair(*members[0], *member);
    }
  }

  void check_fused_pair(const Module& first, const Module& other) {
    const Format* format = known_format(first);
    if (format == nullptr || known_format(other) == nullptr) return;
    if (known_format(other) != format ||
        declared_.algorithm_of(first.name) != declared_.algorithm_of(other.name)) {
      add("{} and {} are in different formats, but servers fuse them", first.name, other.name);
      return;
    }
    const bool has_blocks =
        std::any_of(format->planes.begin(), format->planes.end(),
                    [](const PlaneSpec& plane) { return plane.role == PlaneRole::kBlockScales; });
    if (!has_blocks) return;
    for (const PlaneSpec& plane : format->planes) {
      if (plane.role != PlaneRole::kGlobalScale) continue;
      const auto a = scalar(plane_name(first, plane));
      const auto b = scalar(plane_name(other, plane));
      if (a && b && *a != *b) {
        add("{} and {} have different {} ({} and {}), but servers fuse them", first.name,
            other.name, plane.suffix, *a, *b);
      }
    }
  }

  std::optional<float> scalar(const std::string& name) {
    const auto view = find(name);
    if (!view || view->dtype != DType::kF32 || view->size() != 1) return {};
    return view->as<float>()[0];
  }

  void check_experts() {
    std::map<int, const Module*> first_of_layer;
    std::set<int> reported;
    for (const Module& module : tree().modules()) {
      if (module.expert < 0 || known_format(module) == nullptr) continue;
      const Module& first = *first_of_layer.emplace(module.layer, &module).first->second;
      if (known_format(module) == known_format(first)) continue;
      if (!reported.insert(module.layer).second) continue;
      add("{} is in {} and {} in {}; the experts of one layer must share a format", first.name,
          known_format(first)->name, module.name, known_format(module)->name);
    }
  }

  void check_kv() {
    std::vector<std::string> present;
    std::vector<std::string> missing;
    for (const model::AttentionSite& site : tree().attentions()) {
      for (const std::string& name :
           {k_scalar_name(site, ScalarForm::kScale), v_scalar_name(site, ScalarForm::kScale)}) {
        const auto view = find(name);
        (view ? present : missing).push_back(name);
        if (view) check_scalar(name, *view);
      }
    }
    if (present.empty()) return;
    if (declared_.kv_algorithm().empty()) {
      add("{} is there but no kv_cache_quant_algo is declared", at(present[0]));
    }
    for (const std::string& name : missing) {
      add("{} is missing, other layers have theirs", at(name));
    }
  }

  void check_mtp() {
    std::set<std::string> reported;
    for (const std::string& name : checkpoint_->names()) {
      if (!is_mtp(name)) continue;
      const DType dtype = find(name)->dtype;
      if (!is_float(dtype)) {
        add("{} has the element type {}, MTP layers must stay unquantized", at(name),
            dtype_info(dtype).name);
      }
      const std::string module = module_of(name);
      if (declared_.algorithm_of(module).empty() || !reported.insert("mtp").second) continue;
      add("{}: exclude_modules does not cover {}; a draft model would read it as {}",
          kQuantConfigName, module, declared_.algorithm_of(module));
    }
  }

  // TensorRT-LLM's weight mapper looks for "A" and "D" anywhere in a name.
  void check_names() {
    for (const std::string& name : checkpoint_->names()) {
      if (ends_with(name, ".A_log") || ends_with(name, ".D")) continue;
      if (name.find_first_of("AD") == name.npos) continue;
      add("{} has a capital A or D in its name, TensorRT-LLM takes it for A_log or D", at(name));
    }
  }

  std::filesystem::path directory_;
  Json config_;
  std::optional<Json> quant_config_;
  std::unique_ptr<model::Model> model_;
  std::optional<io::Checkpoint> checkpoint_;
  DeclaredFormats declared_;
  std::map<std::string, const Format*> formats_;  // of the sites, as their tensors say
  std::vector<std::string> violations_;
};

// Opening a sharded checkpoint checks it.
std::vector<std::string> verify_sharded(const std::filesystem::path& directory) {
  try {
    open_sharded(directory);
    return {};
  } catch (const Error& error) {
    return {error.message()};
  }
}

}  // namespace

std::vector<std::string> verify_checkpoint(const std::filesystem::path& directory) {
  if (is_sharded_checkpoint(directory)) return verify_sharded(directory);
  return Verifier(directory).run();
}

}  // namespace vernier::exporting
