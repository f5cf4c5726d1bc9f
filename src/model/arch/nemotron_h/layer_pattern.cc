#include "model/arch/nemotron_h/layer_pattern.h"

#include <fmt/format.h>

#include <string>

#include "io/json.h"

namespace vernier::model::nemotron_h {

namespace {

constexpr std::string_view kPatternKey = "hybrid_override_pattern";
// Far above any release (118); bounds what a malformed file can make us allocate.
constexpr size_t kMaxLayers = 4096;

struct KindName {
  std::string_view name;
  LayerKind kind;
};

constexpr KindName kLetters[] = {
    {"M", LayerKind::kMamba},
    {"*", LayerKind::kAttention},
    {"-", LayerKind::kMlp},
    {"E", LayerKind::kMoe},
};

constexpr KindName kWords[] = {
    {"mamba", LayerKind::kMamba},
    {"linear_attention", LayerKind::kMamba},
    {"attention", LayerKind::kAttention},
    {"full_attention", LayerKind::kAttention},
    {"mlp", LayerKind::kMlp},
    {"moe", LayerKind::kMoe},
};

template <size_t n>
const LayerKind* find_kind(const KindName (&names)[n], std::string_view name) {
  for (const KindName& row : names) {
    if (row.name == name) return &row.kind;
  }
  return nullptr;
}

std::vector<LayerKind> from_pattern(const ConfigReader& reader, const io::Json& value) {
  if (!value.is_string()) reader.reject(ErrorKind::kCorrupt, kPatternKey, value, "a string");
  const auto& pattern = value.get_ref<const std::string&>();
  std::vector<LayerKind> kinds;
  for (size_t position = 0; position < pattern.size() && pattern[position] != '/'; ++position) {
    if (pattern[position] == '|') continue;
    const LayerKind* kind = find_kind(kLetters, std::string_view(pattern).substr(position, 1));
    reader.check(kind != nullptr,
                 fmt::format("{} has an unknown layer kind at position {} of {}, expected one of "
                             "M (Mamba), * (attention), - (MLP), E (MoE)",
                             kPatternKey, position, value.dump()));
    kinds.push_back(*kind);
  }
  return kinds;
}

std::vector<LayerKind> from_list(const ConfigReader& reader, std::string_view key,
                                 const io::Json& value) {
  if (!value.is_array()) reader.reject(ErrorKind::kCorrupt, key, value, "a list");
  std::vector<LayerKind> kinds;
  for (const io::Json& element : value) {
    const LayerKind* kind =
        element.is_string() ? find_kind(kWords, element.get_ref<const std::string&>()) : nullptr;
    reader.check(kind != nullptr,
                 fmt::format("{}[{}] is {}, expected one of mamba, linear_attention, attention, "
                             "full_attention, mlp, moe",
                             key, kinds.size(), element.dump()));
    kinds.push_back(*kind);
  }
  return kinds;
}

}  // namespace

std::vector<LayerKind> read_layer_kinds(const ConfigReader& reader) {
  std::vector<LayerKind> kinds;
  std::string_view kinds_key;
  const auto accept = [&](std::string_view key, std::vector<LayerKind> found) {
    reader.check(kinds_key.empty() || found == kinds,
                 fmt::format("{} and {} describe different stacks of layers", kinds_key, key));
    kinds = std::move(found);
    kinds_key = key;
  };
  if (const io::Json* pattern = reader.find({kPatternKey})) {
    accept(kPatternKey, from_pattern(reader, *pattern));
  }
  for (std::string_view key : {"layers_block_type", "layer_types"}) {
    if (const io::Json* list = reader.find({key})) accept(key, from_list(reader, key, *list));
  }
  reader.check(
      !kinds_key.empty(),
      fmt::format("neither {} nor layers_block_type is there, which say what each layer is",
                  kPatternKey));
  reader.check(
      !kinds.empty() && kinds.size() <= kMaxLayers,
      fmt::format("{} describes {} layers, expected 1 to {}", kinds_key, kinds.size(), kMaxLayers));
  return kinds;
}

}  // namespace vernier::model::nemotron_h
