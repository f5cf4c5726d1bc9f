#include "export/declared_formats.h"

#include <fmt/format.h>

#include <utility>

#include "export/published_names.h"
#include "io/json.h"

namespace vernier::exporting {
namespace {

using io::Json;

constexpr std::string_view kMixed = "MIXED_PRECISION";
constexpr std::string_view kContainer = ".experts.";

std::string text_or_empty(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? "" : found->get<std::string>();
}

bool is_text_list(const Json& value) {
  if (!value.is_array()) return false;
  for (const Json& entry : value) {
    if (!entry.is_string()) return false;
  }
  return true;
}

bool is_text_or_null(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() || found->is_string();
}

// Collects sentences that begin with the same place.
class Findings {
 public:
  explicit Findings(std::string origin) : origin_(std::move(origin)) {}

  template <class... Args>
  void add(fmt::format_string<Args...> text, Args&&... args) {
    sentences_.push_back(
        fmt::format("{}: {}", origin_, fmt::format(text, std::forward<Args>(args)...)));
  }
  std::vector<std::string> take() { return std::move(sentences_); }
  bool empty() const { return sentences_.empty(); }

 private:
  std::string origin_;
  std::vector<std::string> sentences_;
};

void check_types(const Json& quantization, Findings& findings) {
  for (const char* key : {"quant_algo", "kv_cache_quant_algo"}) {
    if (!is_text_or_null(quantization, key)) findings.add("{} is neither a string nor null", key);
  }
  if (quantization.contains("exclude_modules") && !is_text_list(quantization["exclude_modules"])) {
    findings.add("exclude_modules is not a list of strings");
  }
  if (!quantization.contains("quantized_layers")) return;
  if (!quantization["quantized_layers"].is_object()) {
    findings.add("quantized_layers is not an object");
    return;
  }
  for (const auto& item : quantization["quantized_layers"].items()) {
    const bool is_entry = item.value().is_object() && item.value().contains("quant_algo") &&
                          item.value()["quant_algo"].is_string();
    if (!is_entry) findings.add("quantized_layers: {} has no quant_algo", item.key());
  }
}

// `place` names the entry: "" for the whole checkpoint.
void check_group_size(const Json& entry, const PublishedAlgorithm& algorithm,
                      const std::string& place, Findings& findings) {
  if (algorithm.group_size == 0) return;
  const Json size = entry.value("group_size", Json());
  if (size != algorithm.group_size) {
    findings.add("{}group_size is {}, {} has groups of {}", place, io::dump_json(size),
                 algorithm.name, algorithm.group_size);
  }
}

void check_mixed(const Json& quantization, Findings& findings) {
  const auto layers = quantization.find("quantized_layers");
  if (layers == quantization.end() || layers->empty()) {
    findings.add("{} needs a quantized_layers that is not empty", kMixed);
    return;
  }
  for (const auto& item : layers->items()) {
    const auto name = item.value()["quant_algo"].get<std::string>();
    const PublishedAlgorithm* algorithm = find_published(name);
    if (algorithm == nullptr) {
      findings.add(
          "quantized_layers: {} has the quant_algo {}, servers read FP8, NVFP4 and W4A16_NVFP4 "
          "here",
          item.key(), name);
    } else {
      check_group_size(item.value(), *algorithm, "quantized_layers: " + item.key() + ": ",
                       findings);
    }
  }
}

void check_uniform(const Json& quantization, const std::string& name, Findings& findings) {
  const PublishedAlgorithm* algorithm = find_published(name);
  if (algorithm == nullptr) {
    findings.add(
        "the quant_algo {} is not one that every server reads (FP8, NVFP4, W4A16_NVFP4, {})", name,
        kMixed);
    return;
  }
  if (!quantization.contains("exclude_modules")) findings.add("has no exclude_modules");
  check_group_size(quantization, *algorithm, "", findings);
}

}  // namespace

ExcludeList::ExcludeList(std::vector<std::string> entries) : entries_(std::move(entries)) {
  const auto add = [&](size_t entry, const std::string& text) {
    patterns_.push_back({entry, text, quant::Glob(text)});
  };
  for (size_t index = 0; index < entries_.size(); ++index) {
    const std::string& text = entries_[index];
    const bool is_open = text.size() >= 2 && text.back() == '*' && text[text.size() - 2] != '.';
    if (is_open) {
      const std::string stem = text.substr(0, text.size() - 1);
      add(index, stem);
      add(index, stem + ".*");
    } else {
      add(index, text);
    }
  }
}

const std::string* ExcludeList::find(const std::string& module) const {
  for (const Pattern& pattern : patterns_) {
    if (module.find(pattern.text) != module.npos || pattern.glob.matches(module)) {
      return &entries_[pattern.entry];
    }
  }
  return nullptr;
}

DeclaredFormats::DeclaredFormats(const io::Json& quantization)
    : algorithm_(text_or_empty(quantization, "quant_algo")),
      kv_algorithm_(text_or_empty(quantization, "kv_cache_quant_algo")),
      excluded_(quantization.value("exclude_modules", std::vector<std::string>())) {
  is_mixed_ = algorithm_ == kMixed;
  if (!is_mixed_) return;
  for (const auto& item : quantization.at("quantized_layers").items()) {
    layers_.emplace(item.key(), item.value()["quant_algo"].get<std::string>());
  }
}

std::string DeclaredFormats::algorithm_of(const std::string& module) const {
  if (!is_mixed_) return excluded_.find(module) == nullptr ? algorithm_ : "";
  auto found = layers_.find(module);
  const size_t container = module.rfind(kContainer);
  if (found == layers_.end() && container != module.npos) {
    found = layers_.find(module.substr(0, container + kContainer.size() - 1));
  }
  return found == layers_.end() ? "" : found->second;
}

std::vector<std::string> check_quantization_object(const io::Json& quantization,
                                                   const std::string& origin) {
  Findings findings(origin);
  if (!quantization.is_object()) {
    findings.add("has no object \"quantization\"");
    return findings.take();
  }
  check_types(quantization, findings);
  if (!findings.empty()) return findings.take();
  const std::string algorithm = text_or_empty(quantization, "quant_algo");
  if (algorithm == kMixed) {
    check_mixed(quantization, findings);
  } else if (!algorithm.empty()) {
    check_uniform(quantization, algorithm, findings);
  }
  if (!quantization.contains("kv_cache_quant_algo")) findings.add("has no kv_cache_quant_algo");
  const std::string kv = text_or_empty(quantization, "kv_cache_quant_algo");
  if (!kv.empty() && find_published_kv(kv) == nullptr) {
    findings.add("the kv_cache_quant_algo {} is neither FP8 nor NVFP4", kv);
  }
  return findings.take();
}

io::Json quantization_from_config(const io::Json& quantization_config) {
  Json quantization = {{"quant_algo", quantization_config.value("quant_algo", Json())},
                       {"kv_cache_quant_algo", nullptr}};
  if (const auto kv = quantization_config.find("kv_cache_scheme");
      kv != quantization_config.end()) {
    quantization["kv_cache_quant_algo"] = kv->is_object() ? Json("FP8") : *kv;
  }
  quantization["group_size"] = quantization_config.value("group_size", Json(16));
  quantization["exclude_modules"] = quantization_config.value("ignore", Json::array());
  if (quantization_config.contains("quantized_layers")) {
    quantization["quantized_layers"] = quantization_config["quantized_layers"];
  }
  return quantization;
}

}  // namespace vernier::exporting
