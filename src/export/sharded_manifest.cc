#include "export/sharded_manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "export/config_text.h"
#include "export/json_object.h"
#include "io/safetensors.h"
#include "io/staging.h"

namespace vernier::exporting {
namespace {

using formats::Arithmetic;
using formats::ScaleMethod;
using io::Json;

constexpr std::string_view kFormatName = "vernier-sharded-checkpoint";

constexpr std::pair<ScaleMethod, std::string_view> kMethodNames[] = {
    {ScaleMethod::kMax, "max"},
    {ScaleMethod::kMultipliers, "multipliers"},
    {ScaleMethod::kFp8Sweep, "fp8_sweep"},
};
constexpr std::pair<Arithmetic, std::string_view> kArithmeticNames[] = {
    {Arithmetic::kCpu, "cpu"},
    {Arithmetic::kCuda, "cuda"},
};

template <class Enum, size_t n>
std::string_view name_of(const std::pair<Enum, std::string_view> (&table)[n], Enum value) {
  for (const auto& [entry, name] : table) {
    if (entry == value) return name;
  }
  return {};
}

// ---- writing

Json rule_to_json(const formats::ScaleRule& rule) {
  Json json = {{"method", name_of(kMethodNames, rule.method)}};
  if (rule.is_static) json["static"] = true;
  if (rule.four_over_six) json["four_over_six"] = true;
  if (rule.method == ScaleMethod::kMultipliers) {
    json["start"] = rule.start;
    json["stop"] = rule.stop;
    json["step"] = rule.step;
  }
  return json;
}

Json site_to_json(const SiteRecord& site) {
  Json json = {{"weight_format", site.weight_format->name}};
  if (site.weight_format != &formats::bf16_format())
    json["scale_rule"] = rule_to_json(site.scale_rule);
  if (site.input_format != nullptr) json["input_format"] = site.input_format->name;
  if (site.constant_input_amax) json["constant_input_amax"] = *site.constant_input_amax;
  json["weight_rule"] = site.weight_rule;
  json["input_rule"] = site.input_rule;
  return json;
}

Json kv_to_json(const KvRecord& kv) {
  Json json = {{"format", nullptr}, {"is_cast", kv.is_cast}, {"rule", kv.rule}};
  if (kv.format != nullptr) json["format"] = kv.format->name;
  return json;
}

Json slice_to_json(const Slice& slice) {
  Json json = {{"file", slice.file}, {"start", slice.start}, {"shape", slice.shape}};
  const auto is_zero = [](int64_t start) { return start == 0; };
  if (!std::ranges::all_of(slice.file_start, is_zero)) json["file_start"] = slice.file_start;
  return json;
}

Json tensor_to_json(const SlicedTensor& tensor) {
  Json slices = Json::array();
  for (const Slice& slice : tensor.slices) slices.push_back(slice_to_json(slice));
  return {{"dtype", dtype_info(tensor.decl.dtype).name},
          {"shape", tensor.decl.shape},
          {"slices", std::move(slices)}};
}

Json source_to_json(const Manifest& manifest) {
  Json files = Json::array();
  for (const SourceFile& file : manifest.source_files) {
    files.push_back(
        {{"name", file.name}, {"size", file.size_bytes}, {"header_xxh64", file.header_hash}});
  }
  return {{"directory", manifest.source.string()}, {"files", std::move(files)}};
}

Json ranks_to_json(const RankCounts& ranks) {
  return {{"tp", ranks.tp}, {"pp", ranks.pp}, {"ep", ranks.ep}};
}

const std::string& name_of_tensor(const SlicedTensor& tensor) { return tensor.decl.name; }

int version_of(const Manifest& manifest) {
  const bool is_whole = std::ranges::all_of(
      manifest.tensors, [](const SlicedTensor& tensor) { return tensor.slices.size() == 1; });
  return is_whole ? kWholeTensorsVersion : kSlicedTensorsVersion;
}

template <class Records, class Name, class ToJson>
Json object_of(const Records& records, const Name& name, const ToJson& to_json) {
  JsonObjectBuilder object;
  for (const auto& record : records) object.add(std::invoke(name, record), to_json(record));
  return object.take();
}

// ---- reading

// A place in the manifest, for messages: the file and the path of keys to here.
class Node {
 public:
  Node(const Json& json, std::string file, std::string path)
      : json_(json), file_(std::move(file)), path_(std::move(path)) {}

  const Json& json() const { return json_; }
  bool has(const char* key) const { return json_.is_object() && json_.contains(key); }

  Node at(const char* key) const {
    if (!has(key)) fail(fmt::format("has no key \"{}\"", key));
    return member(key, json_.at(key));
  }
  // Every member of an object, without searching it.
  template <class Body>
  void for_each_member(const Body& body) const {
    if (!json_.is_object()) fail("expected an object");
    for (const auto& item : json_.items()) body(item.key(), member(item.key(), item.value()));
  }
  template <class Body>
  void for_each_element(const Body& body) const {
    if (!json_.is_array()) fail("expected an array");
    for (size_t index = 0; index < json_.size(); ++index) {
      body(member(std::to_string(index), json_[index]));
    }
  }

  std::string text() const {
    if (!json_.is_string()) fail("expected a string");
    return json_.get<std::string>();
  }
  bool flag() const {
    if (!json_.is_boolean()) fail("expected true or false");
    return json_.get<bool>();
  }
  float number() const {
    if (!json_.is_number()) fail("expected a number");
    return json_.get<float>();
  }
  int64_t count() const {
    if (!json_.is_number_integer() || json_.get<int64_t>() < 0) fail("expected a count");
    return json_.get<int64_t>();
  }
  std::vector<int64_t> counts() const {
    std::vector<int64_t> values;
    for_each_element([&](const Node& element) { values.push_back(element.count()); });
    return values;
  }
  const formats::Format* format() const {
    const formats::Format* format = formats::find_format(text());
    if (format == nullptr) fail(fmt::format("\"{}\" is not a format of this program", text()));
    return format;
  }
  template <class Enum, size_t n>
  Enum choice(const std::pair<Enum, std::string_view> (&table)[n]) const {
    const std::string name = text();
    for (const auto& [value, known] : table) {
      if (known == name) return value;
    }
    fail(fmt::format("\"{}\" is not a known value", name));
  }
  [[noreturn]] void fail(std::string_view what, ErrorKind kind = ErrorKind::kCorrupt) const {
    throw Error(kind, fmt::format("{}: {}{}{}", file_, path_, path_.empty() ? "" : ": ", what));
  }

 private:
  Node member(std::string_view key, const Json& value) const {
    return {value, file_, path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key)};
  }

  const Json& json_;
  std::string file_;
  std::string path_;
};

formats::ScaleRule read_rule(const Node& node) {
  formats::ScaleRule rule;
  rule.method = node.at("method").choice(kMethodNames);
  rule.is_static = node.has("static") && node.at("static").flag();
  rule.four_over_six = node.has("four_over_six") && node.at("four_over_six").flag();
  if (rule.method == ScaleMethod::kMultipliers) {
    rule.start = node.at("start").number();
    rule.stop = node.at("stop").number();
    rule.step = node.at("step").number();
  }
  return rule;
}

SiteRecord read_site(const std::string& module, const Node& node) {
  SiteRecord site;
  site.module = module;
  site.weight_format = node.at("weight_format").format();
  if (node.has("scale_rule")) site.scale_rule = read_rule(node.at("scale_rule"));
  if (node.has("input_format")) {
    site.input_format = node.at("input_format").format();
    if (site.input_format->input_divisor == 0) node.at("input_format").fail("has no input rule");
  }
  if (node.has("constant_input_amax")) {
    site.constant_input_amax = node.at("constant_input_amax").number();
  }
  site.weight_rule = node.at("weight_rule").text();
  site.input_rule = node.at("input_rule").text();
  return site;
}

KvRecord read_kv(const std::string& site, const Node& node) {
  KvRecord kv;
  kv.site = site;
  if (!node.at("format").json().is_null()) kv.format = node.at("format").format();
  kv.is_cast = node.at("is_cast").flag();
  kv.rule = node.at("rule").text();
  return kv;
}

Slice read_slice(const Node& node) {
  Slice slice{node.at("file").text(), node.at("start").counts(), node.at("shape").counts(), {}};
  if (node.has("file_start")) {
    slice.file_start = node.at("file_start").counts();
  } else {
    slice.file_start.assign(slice.start.size(), 0);
  }
  return slice;
}

SlicedTensor read_tensor(const std::string& name, const Node& node) {
  const auto dtype = dtype_from_name(node.at("dtype").text());
  if (!dtype) node.at("dtype").fail("is not an element type of safetensors");
  SlicedTensor tensor{{name, *dtype, node.at("shape").counts()}, {}};
  node.at("slices").for_each_element(
      [&](const Node& slice) { tensor.slices.push_back(read_slice(slice)); });
  return tensor;
}

RankCounts read_ranks(const Node& node) {
  const auto count = [&](const char* key) {
    const int64_t n_ranks = node.at(key).count();
    if (n_ranks == 0) node.at(key).fail("expected at least 1");
    return n_ranks;
  };
  return {count("tp"), count("pp"), count("ep")};
}

void read_source(const Node& node, Manifest& manifest) {
  manifest.source = node.at("directory").text();
  node.at("files").for_each_element([&](const Node& file) {
    manifest.source_files.push_back(
        {file.at("name").text(), file.at("size").count(), file.at("header_xxh64").text()});
  });
}

void check_version(const Node& root) {
  if (!root.has("format") || root.at("format").json() != kFormatName) {
    root.fail(fmt::format("not a sharded checkpoint: expected \"format\": \"{}\"", kFormatName));
  }
  const int64_t version = root.at("format_version").count();
  if (version != kWholeTensorsVersion && version != kSlicedTensorsVersion) {
    root.at("format_version")
        .fail(fmt::format("found {}, this program reads {} and {}", version, kWholeTensorsVersion,
                          kSlicedTensorsVersion),
              ErrorKind::kUnsupported);
  }
}

// The text of one member, which the parsed value no longer knows.
std::string member_text(std::string_view object_text, std::string_view key) {
  for (ObjectMember& member : split_object(object_text)) {
    if (member.key == key) return std::move(member.value);
  }
  return {};
}

}  // namespace

std::vector<SourceFile> identify_source(const std::filesystem::path& directory) {
  std::vector<SourceFile> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (!entry.is_regular_file() || entry.path().extension() != ".safetensors") continue;
    const io::SafetensorsFile file(entry.path());
    std::string header(static_cast<size_t>(file.header().data_start), '\0');
    std::ifstream(entry.path(), std::ios::binary)
        .read(header.data(), static_cast<std::streamsize>(header.size()));
    files.push_back({entry.path().filename().string(), static_cast<int64_t>(entry.file_size()),
                     fmt::format("{:016x}", io::hash64(header))});
  }
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.name < b.name; });
  return files;
}

std::string manifest_text(const Manifest& manifest) {
  const auto text = [](const Json& value) { return io::dump_json(value); };
  std::vector<ObjectMember> members = {
      {"format", text(kFormatName)},
      {"format_version", text(version_of(manifest))},
      {"recipe", text(manifest.recipe_name)},
      {"arithmetic", text(name_of(kArithmeticNames, manifest.arithmetic))},
      {"mamba_ssm_cache_dtype", text(manifest.mamba_ssm_cache_dtype)},
      {"layout", text(ranks_to_json(manifest.ranks))},
      {"source", text(source_to_json(manifest))},
      {"model_config", manifest.model_config},
      {"modules", text(object_of(manifest.sites, &SiteRecord::module, site_to_json))},
      {"left_unquantized", text(manifest.left_unquantized)},
      {"kv", text(object_of(manifest.kv, &KvRecord::site, kv_to_json))},
      {"tensors", text(object_of(manifest.tensors, name_of_tensor, tensor_to_json))},
  };
  return join_object(members, 1) + '\n';
}

Manifest read_manifest(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  const Json json = io::parse_json(text, path.string());
  const Node root(json, path.string(), "");
  check_version(root);
  Manifest manifest;
  manifest.recipe_name = root.at("recipe").text();
  manifest.arithmetic = root.at("arithmetic").choice(kArithmeticNames);
  manifest.mamba_ssm_cache_dtype = root.at("mamba_ssm_cache_dtype").text();
  manifest.ranks = read_ranks(root.at("layout"));
  read_source(root.at("source"), manifest);
  if (!root.at("model_config").json().is_object())
    root.at("model_config").fail("expected an object");
  manifest.model_config = member_text(text, "model_config");
  root.at("modules").for_each_member([&](const std::string& module, const Node& node) {
    manifest.sites.push_back(read_site(module, node));
  });
  root.at("left_unquantized").for_each_element([&](const Node& module) {
    manifest.left_unquantized.push_back(module.text());
  });
  root.at("kv").for_each_member([&](const std::string& site, const Node& node) {
    manifest.kv.push_back(read_kv(site, node));
  });
  root.at("tensors").for_each_member([&](const std::string& name, const Node& node) {
    manifest.tensors.push_back(read_tensor(name, node));
  });
  return manifest;
}

}  // namespace vernier::exporting
