#include "model/checkpoint_weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "base/error.h"
#include "io/json.h"
#include "io/mapped_file.h"

namespace vernier::model {

namespace {

using formats::Format;
using formats::PlaneSpec;

// KV scales are stored as amax / 448 whatever the cache's format (docs/formats.md).
constexpr float kKvScaleDivisor = 448;

std::string tensor_name(const Module& module, std::string_view suffix) {
  return fmt::format("{}.{}", module.name, suffix);
}

// The unquantized format reads all three floating types; a packed one only its own.
bool is_plane_dtype(const Format& format, const PlaneSpec& plane, DType found) {
  if (&format != &formats::bf16_format()) return found == plane.dtype;
  return found == DType::kBF16 || found == DType::kF16 || found == DType::kF32;
}

bool has_all_planes(const Format& format, const Module& module, const io::Checkpoint& checkpoint) {
  return std::ranges::all_of(format.planes, [&](const PlaneSpec& plane) {
    const std::string name = tensor_name(module, plane.suffix);
    return checkpoint.contains(name) &&
           is_plane_dtype(format, plane, checkpoint.tensor(name).dtype);
  });
}

// "nvfp4 (weight U8, weight_scale F8_E4M3, weight_scale_2 F32)"
std::string describe(const Format& format) {
  std::string planes;
  for (const PlaneSpec& plane : format.planes) {
    planes += fmt::format("{}{} {}", planes.empty() ? "" : ", ", plane.suffix,
                          dtype_info(plane.dtype).name);
  }
  return fmt::format("{} ({})", format.name, planes);
}

[[noreturn]] void reject_unknown_format(const Module& module, const io::Checkpoint& checkpoint) {
  std::string found;
  for (const std::string& name : checkpoint.names()) {
    if (!name.starts_with(module.name + ".")) continue;
    found += fmt::format("{}{} {}", found.empty() ? "" : ", ", name.substr(module.name.size() + 1),
                         dtype_info(checkpoint.tensor(name).dtype).name);
  }
  std::string known;
  for (const Format* format : formats::all_formats()) {
    known += (known.empty() ? "" : " or ") + describe(*format);
  }
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: '{}' is in no registered format: found {}, expected {}",
                          checkpoint.directory().string(), module.name, found, known));
}

// Of the formats whose planes are all there, the one with the most: a weight in one format can have
// all the planes of a simpler one.
const Format& detect_format(const Module& module, const io::Checkpoint& checkpoint) {
  const Format* best = nullptr;
  for (const Format* format : formats::all_formats()) {
    if (module.k % format->k_multiple != 0 || !has_all_planes(*format, module, checkpoint))
      continue;
    if (best == nullptr || format->planes.size() > best->planes.size()) best = format;
  }
  if (best == nullptr) {
    checkpoint.tensor(tensor_name(module, "weight"));  // says so when there is no weight at all
    reject_unknown_format(module, checkpoint);
  }
  return *best;
}

[[noreturn]] void reject_shape(const io::Checkpoint& checkpoint, std::string_view name,
                               const Shape& found, const Shape& expected) {
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: tensor '{}' has shape {}, expected {}",
                                               checkpoint.file_of(name).string(), name,
                                               to_string(found), to_string(expected)));
}

// Some writers store a scalar as [1].
bool is_scalar_either_way(const Shape& found, const Shape& expected) {
  return expected.empty() && found == Shape{1};
}

TensorView checked_tensor(const io::Checkpoint& checkpoint, std::string_view name,
                          const Shape& expected) {
  TensorView view = checkpoint.tensor(name);
  if (view.shape != expected && !is_scalar_either_way(view.shape, expected)) {
    reject_shape(checkpoint, name, view.shape, expected);
  }
  view.shape = expected;
  return view;
}

// The planes with their shapes checked; no byte of them is read.
formats::PackedView packed_view(const Module& module, const io::Checkpoint& checkpoint) {
  const Format& format = detect_format(module, checkpoint);
  formats::PackedView packed{&format, module.n, module.k, {}};
  for (const PlaneSpec& plane : format.planes) {
    packed.planes[static_cast<size_t>(plane.role)] = checked_tensor(
        checkpoint, tensor_name(module, plane.suffix), plane.shape(module.n, module.k));
  }
  return packed;
}

void check_scale(const io::Checkpoint& checkpoint, std::string_view name, float scale) {
  if (std::isfinite(scale) && scale > 0) return;
  throw Error(ErrorKind::kCorrupt,
              fmt::format("{}: tensor '{}' is {}, expected a finite scale above zero",
                          checkpoint.file_of(name).string(), name, scale));
}

float read_scale(const io::Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checked_tensor(checkpoint, name, {});
  if (view.dtype != DType::kF32) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: tensor '{}' has dtype {}, expected F32",
                            checkpoint.file_of(name).string(), name, dtype_info(view.dtype).name));
  }
  const float scale = view.as<float>()[0];
  check_scale(checkpoint, name, scale);
  return scale;
}

void check_global_scales(const Module& module, const formats::PackedView& packed,
                         const io::Checkpoint& checkpoint) {
  for (const PlaneSpec& plane : packed.format->planes) {
    if (plane.role != formats::PlaneRole::kGlobalScale || plane.dtype != DType::kF32) continue;
    const std::string name = tensor_name(module, plane.suffix);
    for (float scale : packed.plane(plane.role).as<float>()) check_scale(checkpoint, name, scale);
  }
}

void read_input_rule(const Module& module, const io::Checkpoint& checkpoint, LinearWeight& weight) {
  const std::string name = tensor_name(module, "input_scale");
  if (!checkpoint.contains(name)) return;
  if (weight.packed.format->input_divisor == 0) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("{}: tensor '{}' belongs to a weight in {}, which has no input rule",
                            checkpoint.file_of(name).string(), name, weight.packed.format->name));
  }
  weight.input.format = weight.packed.format;
  weight.input.scale = read_scale(checkpoint, name);
}

// Calls body with the bytes of each of the module's tensors that are there.
template <class Body>
void for_each_plane(const Module& module, const io::Checkpoint& checkpoint, const Body& body) {
  if (module.has_matrix()) {
    const Format& format = detect_format(module, checkpoint);
    for (const PlaneSpec& plane : format.planes) {
      body(checkpoint.tensor(tensor_name(module, plane.suffix)).bytes());
    }
    return;
  }
  for (const TensorSpec& spec : module.tensors) {
    if (checkpoint.contains(spec.name)) body(checkpoint.tensor(spec.name).bytes());
  }
}

// A tensor beside a weight that we would silently leave out of the computation: a bias, a smoothing
// scale, a scale of another format.
void check_understood(const ModuleTree& tree, const io::Checkpoint& checkpoint,
                      const std::string& name) {
  const size_t dot = name.rfind('.');
  const Module* module = dot == std::string::npos ? nullptr : tree.find(name.substr(0, dot));
  if (module == nullptr || tree.owner_of(name) != nullptr) return;
  const std::string_view suffix = std::string_view(name).substr(dot + 1);
  if (module->has_matrix()) {
    if (suffix == "input_scale" || suffix == "k_scale" || suffix == "v_scale") return;
    const auto& planes = detect_format(*module, checkpoint).planes;
    if (std::ranges::find(planes, suffix, &PlaneSpec::suffix) != planes.end()) return;
  }
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{}: tensor '{}' would change what '{}' computes and is not implemented",
                          checkpoint.file_of(name).string(), name, module->name));
}

const Format* kv_format_named(std::string_view origin, const io::Json& algorithm) {
  if (algorithm.is_null()) return nullptr;
  if (algorithm == "FP8") return formats::find_format("fp8_e4m3");
  if (algorithm == "NVFP4") return formats::find_format("nvfp4");
  throw Error(ErrorKind::kUnsupported,
              fmt::format("{}: the KV cache's quantization is {}, expected FP8, NVFP4 or null",
                          origin, algorithm.dump()));
}

// The value at a path of keys, null where the path ends early.
io::Json value_at(const io::Json& root, std::initializer_list<const char*> path) {
  const io::Json* here = &root;
  for (const char* key : path) {
    if (!here->is_object() || !here->contains(key)) return nullptr;
    here = &(*here)[key];
  }
  return *here;
}

// config.json spells FP8 as a scheme of 8-bit floats.
io::Json algorithm_of_scheme(const io::Json& scheme) {
  const bool is_fp8 = value_at(scheme, {"num_bits"}) == 8 && value_at(scheme, {"type"}) == "float";
  return is_fp8 ? io::Json("FP8") : scheme;
}

}  // namespace

CheckpointWeights::CheckpointWeights(std::shared_ptr<const io::Checkpoint> checkpoint,
                                     const Format* kv_format)
    : checkpoint_(std::move(checkpoint)), kv_format_(kv_format) {}

LinearWeight CheckpointWeights::linear(const Module& module) const {
  LinearWeight weight;
  weight.packed = packed_view(module, *checkpoint_);
  check_global_scales(module, weight.packed, *checkpoint_);
  read_input_rule(module, *checkpoint_, weight);
  return weight;
}

TensorView CheckpointWeights::tensor(const TensorSpec& spec) const {
  return checked_tensor(*checkpoint_, spec.name, spec.shape);
}

KvRule CheckpointWeights::kv_rule(const AttentionSite& site) const {
  if (kv_format_ == nullptr) return {};
  // Presets that fix the range write no scales; readers then take 1.
  const auto stored = [&](const std::string& name) {
    return checkpoint_->contains(name) ? read_scale(*checkpoint_, name) : 1.0f;
  };
  const float ratio = kv_format_->input_divisor / kKvScaleDivisor;  // 1 for FP8, 6 for NVFP4
  return {.format = kv_format_,
          .k_scale = stored(site.k_proj + ".k_scale") / ratio,
          .v_scale = stored(site.v_proj + ".v_scale") / ratio};
}

void CheckpointWeights::will_need(const Module& module) const {
  for_each_plane(module, *checkpoint_, io::advise_will_need);
}

void CheckpointWeights::done_with(const Module& module) const {
  for_each_plane(module, *checkpoint_, io::advise_done);
}

const Format* declared_kv_format(const std::filesystem::path& directory) {
  if (const auto path = directory / "hf_quant_config.json"; std::filesystem::exists(path)) {
    return kv_format_named(path.string(),
                           value_at(io::read_json(path), {"quantization", "kv_cache_quant_algo"}));
  }
  const auto path = directory / "config.json";
  const io::Json scheme = value_at(io::read_json(path), {"quantization_config", "kv_cache_scheme"});
  return kv_format_named(path.string(), algorithm_of_scheme(scheme));
}

bool is_quantized(const ModuleTree& tree, const io::Checkpoint& checkpoint) {
  return std::ranges::any_of(tree.modules(), [&](const Module& module) {
    return module.has_matrix() && &detect_format(module, checkpoint) != &formats::bf16_format();
  });
}

void check_complete(const ModuleTree& tree, const io::Checkpoint& checkpoint) {
  for (const Module& module : tree.modules()) {
    if (module.has_matrix()) {
      packed_view(module, checkpoint);
      continue;
    }
    for (const TensorSpec& spec : module.tensors) {
      checked_tensor(checkpoint, spec.name, spec.shape);
    }
  }
  for (const std::string& name : checkpoint.names()) check_understood(tree, checkpoint, name);
}

}  // namespace vernier::model
