#include "quant/quantizers.h"

#include <utility>

namespace vernier::quant {
namespace {

using model::ModuleKind;

constexpr std::pair<QuantizerRole, std::string_view> kModuleRoles[] = {
    {QuantizerRole::kWeight, ".weight_quantizer"},
    {QuantizerRole::kInput, ".input_quantizer"},
    {QuantizerRole::kOutput, ".output_quantizer"}};
constexpr std::pair<QuantizerRole, std::string_view> kAttentionRoles[] = {
    {QuantizerRole::kQ, ".q_bmm_quantizer"},
    {QuantizerRole::kK, ".k_bmm_quantizer"},
    {QuantizerRole::kV, ".v_bmm_quantizer"}};

bool has_quantizers(ModuleKind kind) {
  return kind == ModuleKind::kLinear || kind == ModuleKind::kEmbedding ||
         kind == ModuleKind::kConv1d;
}

}  // namespace

std::vector<Quantizer> quantizers_of(const model::ModuleTree& tree) {
  std::vector<Quantizer> quantizers;
  for (const model::Module& module : tree.modules()) {
    if (!has_quantizers(module.kind)) continue;
    for (const auto& [role, suffix] : kModuleRoles) {
      quantizers.push_back({module.name + std::string(suffix), role, &module, nullptr});
    }
  }
  for (const model::AttentionSite& site : tree.attentions()) {
    for (const auto& [role, suffix] : kAttentionRoles) {
      quantizers.push_back({site.name + std::string(suffix), role, nullptr, &site});
    }
  }
  return quantizers;
}

std::string_view parent_class(const Quantizer& quantizer) {
  if (!quantizer.module) return "";
  switch (quantizer.module->kind) {
    case ModuleKind::kLinear:
      return "nn.Linear";
    case ModuleKind::kEmbedding:
      return "nn.Embedding";
    case ModuleKind::kConv1d:
      return "nn.Conv1d";
    default:
      return "";
  }
}

}  // namespace vernier::quant
