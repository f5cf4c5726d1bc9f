#include "export/tensor_sink.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "base/file.h"
#include "export/convert.h"

namespace vernier::exporting {
namespace {

void require_positive(std::string_view tensor, float value, std::string_view made_from) {
  if (std::isfinite(value) && value > 0) return;
  throw Error(ErrorKind::kCorrupt, fmt::format("{}: the scale would be {}{}, expected a positive "
                                               "finite number",
                                               tensor, value, made_from));
}

}  // namespace

TensorSink::TensorSink(const Options& options, const quant::QuantPlan& plan,
                       const std::vector<SlicedTensor>& tensors)
    : options_(options), plan_(plan), files_(options.directory, tensors, options.resume) {
  for (const quant::SitePlan& site : plan.sites) {
    const bool is_constant = site.is_quantized() && site.input_format && site.constant_input_amax;
    if (!is_constant) continue;
    const std::string name = input_scalar_name(*site.module, options_.form);
    files_.write_scalar(
        name, stored_scalar(name, *site.constant_input_amax, site.input_format->input_divisor));
  }
}

void TensorSink::write_weight(const model::Module& module, const formats::PackedView& packed) {
  VERNIER_CHECK(packed.n == module.n && packed.k == module.k);
  for (const formats::PlaneSpec& plane : packed.format->planes) {
    const TensorView& tensor = packed.plane(plane.role);
    const std::string name = plane_name(module, plane);
    if (plane.role == formats::PlaneRole::kGlobalScale) {
      require_positive(name, tensor.as<float>()[0], "");
    }
    files_.write(name, tensor);
  }
}

void TensorSink::copy_tensor(std::string_view name, const TensorView& tensor) {
  const io::TensorDecl* decl = files_.find(name);
  VERNIER_CHECK(decl != nullptr);
  if (decl->dtype == tensor.dtype) {
    files_.write(name, tensor);
  } else {
    files_.write(name, convert_floats(tensor, decl->dtype, name).view());
  }
}

void TensorSink::write_input_amax(const model::Module& module, float amax) {
  const formats::Format* format = plan_.site(module).input_format;
  VERNIER_CHECK(format != nullptr);
  const std::string name = input_scalar_name(module, options_.form);
  files_.write_scalar(name, stored_scalar(name, amax, format->input_divisor));
}

void TensorSink::write_kv_amax(const model::AttentionSite& site, float k_amax, float v_amax) {
  const std::string k_name = k_scalar_name(site, options_.form);
  const std::string v_name = v_scalar_name(site, options_.form);
  files_.write_scalar(k_name, stored_scalar(k_name, k_amax, kKvDivisor));
  files_.write_scalar(v_name, stored_scalar(v_name, v_amax, kKvDivisor));
}

void TensorSink::finish() {
  files_.finish();
  write_descriptions();
  sync_directory(options_.directory);
}

float TensorSink::stored_scalar(std::string_view name, float amax, float divisor) const {
  const float scale = formats::scale_from_amax(amax, divisor, options_.arithmetic);
  require_positive(name, scale, fmt::format(" (from a maximum of {})", amax));
  return options_.form == ScalarForm::kScale ? scale : amax;
}

}  // namespace vernier::exporting
