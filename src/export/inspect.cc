#include "export/inspect.h"

#include <algorithm>
#include <limits>
#include <optional>

#include "export/sharded_checkpoint.h"
#include "formats/e4m3.h"
#include "model/stored_model.h"

namespace vernier::exporting {
namespace {

using formats::PlaneRole;

struct Totals {
  double weight_bits = 0;
  int64_t n_weights = 0;

  void add(const ModuleRow& row) {
    weight_bits += row.bits_per_weight * static_cast<double>(row.n * row.k);
    n_weights += row.n * row.k;
  }
  double bits_per_weight() const {
    return n_weights == 0 ? 0 : weight_bits / static_cast<double>(n_weights);
  }
};

void read_block_scales(const TensorView& scales, ModuleRow& row) {
  if (scales.dtype != DType::kF8E4M3 || scales.size() == 0) return;
  // Positive E4M3 codes are in the order of their values; a sign or a NaN is for verify to report.
  const auto codes = scales.as<uint8_t>();
  const auto [min, max] = std::minmax_element(codes.begin(), codes.end());
  row.min_block_scale = formats::e4m3_to_float(*min);
  row.max_block_scale = formats::e4m3_to_float(*max);
}

ModuleRow describe(const model::Module& module, const model::LinearWeight& weight) {
  const formats::Format& format = *weight.packed.format;
  ModuleRow row;
  row.name = module.name;
  row.format = format.name;
  if (weight.input.format != nullptr) row.input_format = weight.input.format->name;
  row.n = module.n;
  row.k = module.k;
  row.bits_per_weight = format.bits_per_weight;
  row.input_scale = weight.input.scale;
  for (const formats::PlaneSpec& plane : format.planes) {
    const TensorView& view = weight.packed.plane(plane.role);
    row.bytes += view.size_bytes();
    if (plane.role == PlaneRole::kGlobalScale) row.global_scale = view.as<float>()[0];
    if (plane.role == PlaneRole::kBlockScales) read_block_scales(view, row);
  }
  return row;
}

std::string kv_format(const model::StoredModel& stored) {
  const auto& sites = stored.model->tree().attentions();
  if (sites.empty()) return "";
  const formats::Format* format = stored.weights->kv_rule(sites.front()).format;
  return format == nullptr ? "" : std::string(format->name);
}

Inspection inspect_model(const model::StoredModel& stored) {
  Inspection inspection;
  Totals linears;
  for (const model::Module& module : stored.model->tree().modules()) {
    const bool is_linear = module.kind == model::ModuleKind::kLinear;
    if (!is_linear && module.kind != model::ModuleKind::kEmbedding) continue;
    inspection.modules.push_back(describe(module, stored.weights->linear(module)));
    if (is_linear) linears.add(inspection.modules.back());
  }
  inspection.bits_per_weight = linears.bits_per_weight();
  inspection.kv_format = kv_format(stored);
  return inspection;
}

}  // namespace

Inspection inspect_checkpoint(const std::filesystem::path& directory) {
  if (is_sharded_checkpoint(directory)) {
    const ShardedCheckpoint checkpoint = open_sharded(directory);
    Inspection inspection = inspect_model(checkpoint.stored);
    inspection.n_tensors = static_cast<int64_t>(checkpoint.tensors->names().size());
    inspection.size_bytes = checkpoint.tensors->file_bytes();
    return inspection;
  }
  const model::StoredModel stored = model::open_checkpoint(directory);
  Inspection inspection = inspect_model(stored);
  inspection.n_tensors = static_cast<int64_t>(stored.checkpoint->names().size());
  inspection.size_bytes = stored.checkpoint->file_bytes();
  return inspection;
}

io::Json to_json(const Inspection& inspection) {
  io::Json modules = io::Json::array();
  for (const ModuleRow& row : inspection.modules) {
    modules.push_back({{"name", row.name},
                       {"format", row.format},
                       {"input_format", row.input_format},
                       {"n", row.n},
                       {"k", row.k},
                       {"bytes", row.bytes},
                       {"bits_per_weight", row.bits_per_weight},
                       {"global_scale", row.global_scale},
                       {"min_block_scale", row.min_block_scale},
                       {"max_block_scale", row.max_block_scale},
                       {"input_scale", row.input_scale}});
  }
  return {{"modules", std::move(modules)},
          {"kv_format", inspection.kv_format},
          {"n_tensors", inspection.n_tensors},
          {"size_bytes", inspection.size_bytes},
          {"bits_per_weight", inspection.bits_per_weight}};
}

}  // namespace vernier::exporting
