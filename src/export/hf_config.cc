#include "export/hf_config.h"

#include <algorithm>
#include <cctype>
#include <set>
#include <string_view>

#include "export/published_names.h"
#include "io/json.h"

namespace vernier::exporting {
namespace {

using io::Json;

constexpr std::string_view kMixed = "MIXED_PRECISION";

// Answers whether a pattern would also match a quantized module.
class QuantizedNames {
 public:
  explicit QuantizedNames(std::vector<std::string> names) : names_(std::move(names)) {
    std::sort(names_.begin(), names_.end());
  }

  bool has(std::string_view name) const {
    return std::binary_search(names_.begin(), names_.end(), name, std::less<>());
  }
  bool has_prefix(std::string_view prefix) const {
    const auto next = std::lower_bound(names_.begin(), names_.end(), prefix, std::less<>());
    return prefix.empty() ||
           (next != names_.end() && std::string_view(*next).substr(0, prefix.size()) == prefix);
  }

 private:
  std::vector<std::string> names_;
};

// The widest pattern that takes in `name` and no quantized module; empty when its own name is
// taken. At every dot the prefix is tried twice: "p*", and where a quantized sibling begins with
// the same characters (layers.1 beside layers.10) "p.*".
std::string exclusion_pattern(const std::string& name, const QuantizedNames& quantized) {
  for (size_t dot = name.find('.'); dot != name.npos; dot = name.find('.', dot + 1)) {
    const std::string prefix = name.substr(0, dot);
    if (!quantized.has_prefix(prefix)) return prefix + "*";
    if (!quantized.has(prefix) && !quantized.has_prefix(prefix + ".")) return prefix + ".*";
  }
  return quantized.has(name) ? "" : name;
}

Json describe(const PublishedAlgorithm& algorithm) {
  Json entry = {{"quant_algo", algorithm.name}};
  if (algorithm.group_size != 0) entry["group_size"] = algorithm.group_size;
  return entry;
}

// The modules on which the peer's bookkeeping has an entry: all that own a quantizer, which besides
// linears and embeddings are convolutions, and routers because they sit beside experts.
std::vector<std::string> unquantized_modules(const quant::QuantPlan& plan,
                                             const model::ModuleTree& tree) {
  std::vector<std::string> names;
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) names.push_back(site.module->name);
  }
  for (const model::Module& module : tree.modules()) {
    const bool is_listed =
        module.kind == model::ModuleKind::kConv1d || module.kind == model::ModuleKind::kRouter;
    if (is_listed) names.push_back(module.name);
  }
  return names;
}

// Module name -> its description, in network order. Linear in the number of modules: an ordered
// Json object would be searched at every insertion.
struct Layers {
  std::vector<std::string> names;
  std::vector<const PublishedAlgorithm*> algorithms;
  std::vector<const PublishedAlgorithm*> distinct;  // by what they describe, in order of appearance
};

Layers quantized_layers(const quant::QuantPlan& plan) {
  Layers layers;
  for (const quant::SitePlan& site : plan.sites) {
    if (!site.is_quantized()) continue;
    const PublishedAlgorithm& algorithm =
        published_algorithm(*site.weight_format, site.input_format);
    layers.names.push_back(site.module->name);
    layers.algorithms.push_back(&algorithm);
    const bool is_known = std::any_of(layers.distinct.begin(), layers.distinct.end(),
                                      [&](auto* known) { return known->name == algorithm.name; });
    if (!is_known) layers.distinct.push_back(&algorithm);
  }
  return layers;
}

Json to_json(const Layers& layers) {
  Json object = Json::object();
  auto& members = object.get_ref<Json::object_t&>();
  members.reserve(layers.names.size());
  for (size_t index = 0; index < layers.names.size(); ++index) {
    members.emplace_back(layers.names[index], describe(*layers.algorithms[index]));
  }
  return object;
}

Json config_group(const Json& layer) {
  const std::string algorithm_name = layer.at("quant_algo").get<std::string>();
  const PublishedAlgorithm* algorithm = find_published(algorithm_name);
  if (algorithm == nullptr) return nullptr;
  Json numbers = {{"dynamic", false}, {"num_bits", algorithm->num_bits}, {"type", "float"}};
  if (algorithm->group_size != 0) {
    numbers["group_size"] = layer.value("group_size", Json(algorithm->group_size));
  }
  Json group = Json::object();
  if (!algorithm->input_format.empty()) group["input_activations"] = numbers;
  group["weights"] = numbers;
  return group;
}

// One group per distinct description in order of appearance, its modules sorted.
Json mixed_groups(const Json& layers) {
  std::vector<Json> descriptions;
  std::vector<std::vector<std::string>> targets;
  for (const auto& [name, layer] : layers.items()) {
    const auto known = std::find(descriptions.begin(), descriptions.end(), layer);
    const auto index = static_cast<size_t>(known - descriptions.begin());
    if (known == descriptions.end()) {
      descriptions.push_back(layer);
      targets.emplace_back();
    }
    targets[index].push_back(name);
  }
  Json groups = Json::object();
  for (size_t index = 0; index < descriptions.size(); ++index) {
    std::sort(targets[index].begin(), targets[index].end());
    Json group = config_group(descriptions[index]);
    group["targets"] = targets[index];
    groups["group_" + std::to_string(index)] = std::move(group);
  }
  return groups;
}

Json kv_cache_scheme(const std::string& algorithm) {
  if (algorithm != "FP8") return algorithm;
  return {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
}

bool is_set(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

}  // namespace

std::vector<std::string> summarize_excluded(const std::vector<std::string>& quantized,
                                            const std::vector<std::string>& unquantized) {
  const QuantizedNames names(quantized);
  std::set<std::string> patterns;
  for (const std::string& name : unquantized) {
    std::string pattern = exclusion_pattern(name, names);
    if (!pattern.empty()) patterns.insert(std::move(pattern));
  }
  return {patterns.begin(), patterns.end()};
}

std::vector<std::string> find_mtp_prefixes(const std::vector<std::string>& tensor_names) {
  std::vector<std::string> prefixes;
  const auto add = [&](std::string_view prefix) {
    if (std::find(prefixes.begin(), prefixes.end(), prefix) == prefixes.end()) {
      prefixes.emplace_back(prefix);
    }
  };
  constexpr std::string_view kRoot = "mtp";
  constexpr std::string_view kLayers = "mtp.layers.";
  for (const std::string_view name : tensor_names) {
    if (name.substr(0, kRoot.size() + 1) != "mtp.") continue;
    add(kRoot);
    if (name.substr(0, kLayers.size()) != kLayers) continue;
    size_t end = kLayers.size();
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end]))) ++end;
    if (end > kLayers.size()) add(name.substr(0, end));
  }
  return prefixes;
}

io::Json hf_quant_config(const quant::QuantPlan& plan, const model::ModuleTree& tree,
                         const std::vector<std::string>& mtp_prefixes) {
  const Layers layers = quantized_layers(plan);
  const bool is_uniform = layers.distinct.size() == 1;
  Json quantization = {{"quant_algo", nullptr}, {"kv_cache_quant_algo", nullptr}};
  if (!layers.distinct.empty()) {
    quantization["quant_algo"] = is_uniform ? layers.distinct[0]->name : kMixed;
  }
  if (const formats::Format* kv = plan.kv_format()) {
    quantization["kv_cache_quant_algo"] = published_kv_name(*kv);
  }
  if (is_uniform) {
    quantization.update(describe(*layers.distinct[0]));
    quantization["exclude_modules"] =
        summarize_excluded(layers.names, unquantized_modules(plan, tree));
  } else {
    quantization["quantized_layers"] = to_json(layers);
  }
  for (const std::string& prefix : mtp_prefixes) {
    quantization["exclude_modules"].push_back(prefix + "*");
  }
  // The producer names the format, not the program: servers look for "modelopt" before they read
  // on, and the version is the release whose layout this is.
  return {{"producer", {{"name", "modelopt"}, {"version", "0.47.0"}}},
          {"quantization", std::move(quantization)}};
}

bool describes_quantization(const io::Json& hf_quant_config) {
  const Json& quantization = hf_quant_config.at("quantization");
  return is_set(quantization, "quant_algo") || is_set(quantization, "kv_cache_quant_algo");
}

io::Json quantization_config(const io::Json& hf_quant_config) {
  const Json& quantization = hf_quant_config.at("quantization");
  Json config = Json::object();
  if (is_set(quantization, "quant_algo")) {
    if (quantization["quant_algo"] == kMixed) {
      config["config_groups"] = mixed_groups(quantization.at("quantized_layers"));
      config["quantized_layers"] = quantization.at("quantized_layers");
    } else if (Json group = config_group(quantization); !group.is_null()) {
      group["targets"] = {"Linear"};
      config["config_groups"] = {{"group_0", std::move(group)}};
    }
  }
  config["ignore"] = quantization.value("exclude_modules", Json::array());
  if (is_set(quantization, "quant_algo")) config["quant_algo"] = quantization["quant_algo"];
  if (is_set(quantization, "kv_cache_quant_algo")) {
    config["kv_cache_scheme"] =
        kv_cache_scheme(quantization["kv_cache_quant_algo"].get<std::string>());
  }
  config["producer"] = hf_quant_config.at("producer");
  config["quant_method"] = "modelopt";
  return config;
}

}  // namespace vernier::exporting
