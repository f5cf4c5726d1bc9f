#include "model/layer_loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace vernier::model {

namespace {

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

}  // namespace

LayerLoader::LayerLoader(const ModuleTree& tree, const WeightSource& weights, std::string prefix)
    : tree_(tree), weights_(weights), prefix_(std::move(prefix)) {}

bool LayerLoader::has_tensor(std::string_view name) const {
  return tree_.owner_of(prefix_ + std::string(name)) != nullptr;
}

LinearSite LayerLoader::linear(std::string_view name) const {
  const Module* module = tree_.find(prefix_ + std::string(name));
  VERNIER_CHECK(module != nullptr && module->kind == ModuleKind::kLinear);
  return LinearSite(*module, weights_.linear(*module));
}

Vector<float> LayerLoader::values(std::string_view tensor) const {
  return Vector<float>(host_values(tensor), device());
}

std::vector<float> LayerLoader::host_values(std::string_view tensor) const {
  return values_of(spec(tensor), weights_.tensor(spec(tensor)));
}

std::vector<float> LayerLoader::values_of(const TensorSpec& wanted, const TensorView& view) {
  if (!is_float(view.dtype)) {
    throw Error(ErrorKind::kCorrupt,
                fmt::format("tensor '{}' has dtype {}, expected BF16, F16 or F32", wanted.name,
                            dtype_info(view.dtype).name));
  }
  std::vector<float> values(static_cast<size_t>(view.size()));
  const formats::PackedView as_row{&formats::bf16_format(), 1, view.size(), {view}};
  formats::bf16_format().decode_rows(as_row, 0, 1, values.data());
  return values;
}

AnyMatrix LayerLoader::matrix(std::string_view tensor) const {
  const TensorView view = weights_.tensor(spec(tensor));
  const int64_t n_rows = view.shape[0];
  const std::vector<float> elems = values_of(spec(tensor), view);
  const int64_t n_cols = std::ssize(elems) / n_rows;
  return to_device(ConstMatrixView(elems.data(), n_rows, n_cols), device());
}

const TensorSpec& LayerLoader::spec(std::string_view tensor) const {
  const std::string name = prefix_ + std::string(tensor);
  const Module* module = tree_.owner_of(name);
  VERNIER_CHECK(module != nullptr);
  return *std::ranges::find(module->tensors, name, &TensorSpec::name);
}

}  // namespace vernier::model
