#include "export/sharded_weights.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "base/error.h"
#include "export/output_plan.h"
#include "export/tensor_sink.h"
#include "io/mapped_file.h"

namespace vernier::exporting {
namespace {

using formats::PlaneRole;
using formats::PlaneSpec;
using model::Module;

[[noreturn]] void reject(const SliceStore& store, std::string_view name, std::string_view what) {
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: {}: {}", store.directory().string(), name, what));
}

void check_decl(const SliceStore& store, const std::string& name, DType dtype, const Shape& shape) {
  const io::TensorDecl& decl = store.decl(name);
  if (decl.dtype == dtype && decl.shape == shape) return;
  reject(store, name,
         fmt::format("found {} {}, expected {} {}", dtype_info(decl.dtype).name,
                     to_string(decl.shape), dtype_info(dtype).name, to_string(shape)));
}

// Whether every share of the weight is whole blocks of the format.
bool keeps_blocks(const Module& module, const formats::Format& format) {
  const model::Cut& cut = module.tensors.front().cut;
  return cut.kind != model::CutKind::kColumns || cut.unit % format.k_multiple == 0;
}

}  // namespace

ShardedWeights::ShardedWeights(std::shared_ptr<const SliceStore> store, const Manifest& manifest)
    : store_(std::move(store)) {
  Records records{manifest.arithmetic, {}, {}};
  for (const SiteRecord& site : manifest.sites) records.sites.emplace(site.module, site);
  for (const KvRecord& kv : manifest.kv) records.kv.emplace(kv.site, kv);
  records_ = std::make_shared<const Records>(std::move(records));
}

ShardedWeights::ShardedWeights(std::shared_ptr<const SliceStore> store,
                               std::shared_ptr<const Records> records, comm::Share share)
    : store_(std::move(store)), records_(std::move(records)), share_(share) {}

std::shared_ptr<const model::WeightSource> ShardedWeights::share(comm::Share tensor) const {
  return std::shared_ptr<const ShardedWeights>(new ShardedWeights(store_, records_, tensor));
}

void ShardedWeights::check(const Module& module) const {
  if (!module.has_matrix()) {
    for (const model::TensorSpec& spec : module.tensors) check_shape(spec);
    return;
  }
  const SiteRecord& site = records_->sites.at(module.name);
  check_planes(module, *site.weight_format);
  if (site.input_format != nullptr) amax(input_scalar_name(module, ScalarForm::kAmax));
}

void ShardedWeights::check_planes(const Module& module, const formats::Format& format) const {
  const bool is_bf16 = &format == &formats::bf16_format();
  for (const PlaneSpec& plane : format.planes) {
    const std::string name = plane_name(module, plane);
    // Unquantized weights keep the source's floating type.
    const DType dtype = is_bf16 ? store_->decl(name).dtype : plane.dtype;
    check_decl(*store_, name, dtype, plane.shape(module.n, module.k));
    if (plane.role == PlaneRole::kGlobalScale) amax(name);
  }
}

void ShardedWeights::check_shape(const model::TensorSpec& spec) const {
  const io::TensorDecl& decl = store_->decl(spec.name);
  if (decl.shape == spec.shape) return;
  reject(*store_, spec.name,
         fmt::format("has shape {}, expected {}", to_string(decl.shape), to_string(spec.shape)));
}

float ShardedWeights::amax(const std::string& name) const {
  check_decl(*store_, name, DType::kF32, {});
  const float value = store_->whole(name).view.as<float>()[0];
  if (!std::isfinite(value) || value <= 0) {
    reject(*store_, name, fmt::format("is {}, expected a positive finite number", value));
  }
  return value;
}

float ShardedWeights::scale(const std::string& amax_name, float divisor) const {
  return formats::scale_from_amax(amax(amax_name), divisor, records_->arithmetic);
}

model::LinearWeight ShardedWeights::linear(const Module& module) const {
  if (module.layer >= 0) return read_linear(module);
  const std::lock_guard lock(mutex_);
  const auto known = linears_.find(module.name);
  if (known != linears_.end()) return known->second;
  return linears_.emplace(module.name, read_linear(module)).first->second;
}

model::LinearWeight ShardedWeights::read_linear(const Module& module) const {
  const SiteRecord& site = records_->sites.at(module.name);
  check_planes(module, *site.weight_format);
  const bool is_share = is_cut(module.tensors.front().cut);
  model::LinearWeight weight = is_share && !keeps_blocks(module, *site.weight_format)
                                   ? cut_whole(module, *site.weight_format)
                                   : read_packed(module, *site.weight_format);
  if (site.input_format != nullptr) {
    weight.input = {site.input_format, scale(input_scalar_name(module, ScalarForm::kAmax),
                                             site.input_format->input_divisor)};
  }
  return weight;
}

model::LinearWeight ShardedWeights::read_packed(const Module& module,
                                                const formats::Format& format) const {
  const auto [n, k] = share_of(module, share_);
  formats::PackedView packed{&format, n, k, {}};
  std::shared_ptr<formats::PackedTensor> owner;
  for (const PlaneSpec& plane : format.planes) {
    FoundTensor found = read(plane_name(module, plane), plane_cut(module, format, plane));
    packed.planes[static_cast<size_t>(plane.role)] = found.view;
    if (found.is_mapped()) continue;
    if (owner == nullptr) {
      owner = std::make_shared<formats::PackedTensor>(formats::PackedTensor{&format, n, k, {}});
    }
    owner->plane(plane.role) = std::move(found.copy);
  }
  return {packed, std::move(owner), {}};
}

model::LinearWeight ShardedWeights::cut_whole(const Module& module,
                                              const formats::Format& format) const {
  const model::LinearWeight whole =
      ShardedWeights(store_, records_, {}).read_packed(module, format);
  const auto owner = std::make_shared<const formats::PackedTensor>(
      cut_packed(whole.packed, module.tensors.front().cut, share_, module.name));
  return {owner->view(), owner, {}};
}

TensorView ShardedWeights::tensor(const model::TensorSpec& spec) const {
  check_shape(spec);
  const std::lock_guard lock(mutex_);
  const auto known = tensors_.find(spec.name);
  if (known != tensors_.end()) return known->second.view;
  FoundTensor found = read(spec.name, spec.cut);
  if (found.is_mapped()) return found.view;
  return tensors_.emplace(spec.name, std::move(found)).first->second.view;
}

FoundTensor ShardedWeights::read(const std::string& name, const model::Cut& cut) const {
  if (!is_cut(cut)) return store_->whole(name);
  return store_->part(name, part_of_cut(cut, store_->decl(name).shape, share_));
}

model::KvRule ShardedWeights::kv_rule(const model::AttentionSite& site) const {
  const auto found = records_->kv.find(site.name);
  if (found == records_->kv.end() || found->second.format == nullptr) return {};
  const KvRecord& kv = found->second;
  // What a server reads as k_scale, in the units that the format's rounding takes.
  const float ratio = kv.format->input_divisor / kKvDivisor;
  const auto stored = [&](const std::string& name) {
    return (kv.is_cast ? 1.0f : scale(name, kKvDivisor)) / ratio;
  };
  return {kv.format, stored(k_scalar_name(site, ScalarForm::kAmax)),
          stored(v_scalar_name(site, ScalarForm::kAmax))};
}

void ShardedWeights::will_need(const Module& module) const { advise(module, io::advise_will_need); }

void ShardedWeights::done_with(const Module& module) const {
  advise(module, io::advise_done);
  const std::lock_guard lock(mutex_);
  linears_.erase(module.name);
  for (const model::TensorSpec& spec : module.tensors) tensors_.erase(spec.name);
}

template <class Advice>
void ShardedWeights::advise(const Module& module, const Advice& advice) const {
  if (module.has_matrix()) {
    const formats::Format& format = *records_->sites.at(module.name).weight_format;
    for (const PlaneSpec& plane : format.planes) {
      advise(plane_name(module, plane), plane_cut(module, format, plane), advice);
    }
    return;
  }
  for (const model::TensorSpec& spec : module.tensors) {
    advise(spec.name, spec.cut, advice);
  }
}

template <class Advice>
void ShardedWeights::advise(const std::string& name, const model::Cut& cut,
                            const Advice& advice) const {
  const auto regions = is_cut(cut) ? store_->regions_of_part(
                                         name, part_of_cut(cut, store_->decl(name).shape, share_))
                                   : store_->regions_of_whole(name);
  for (const auto region : regions) advice(region);
}

}  // namespace vernier::exporting
