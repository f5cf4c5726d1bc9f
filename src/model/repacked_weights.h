// For tests: a golden network in any format.
#pragma once

#include <memory>

#include "model/weight_source.h"

namespace vernier::model {

// The weights of another source, packed in one format; or the same values as plain FP32.
class RepackedWeights : public WeightSource {
 public:
  RepackedWeights(const WeightSource& source, const formats::Format& format, bool is_decoded)
      : source_(source), format_(format), is_decoded_(is_decoded) {}

  LinearWeight linear(const Module& module) const override {
    LinearWeight weight = source_.linear(module);
    if (module.kind != ModuleKind::kLinear) return weight;
    auto packed = std::make_shared<formats::PackedTensor>(
        format_.encode(weight.packed.plane(formats::PlaneRole::kCodes), {}));
    if (is_decoded_) packed = decoded(*packed);
    weight.packed = packed->view();
    weight.owner = packed;
    if (format_.input_divisor > 0) {
      weight.input = {&format_, 4 / format_.input_divisor};
    }
    return weight;
  }
  TensorView tensor(const TensorSpec& spec) const override { return source_.tensor(spec); }
  KvRule kv_rule(const AttentionSite&) const override {
    if (format_.input_divisor == 0) return {};
    return {&format_, 6 / format_.input_divisor, 3 / format_.input_divisor};
  }

 private:
  static std::shared_ptr<formats::PackedTensor> decoded(const formats::PackedTensor& packed) {
    auto plain = std::make_shared<formats::PackedTensor>();
    plain->format = &formats::bf16_format();
    plain->n = packed.n;
    plain->k = packed.k;
    Tensor& plane = plain->plane(formats::PlaneRole::kCodes);
    plane = Tensor(DType::kF32, {packed.n, packed.k});
    packed.format->decode_rows(packed.view(), 0, packed.n, plane.as<float>().data());
    return plain;
  }

  const WeightSource& source_;
  const formats::Format& format_;
  bool is_decoded_;
};

}  // namespace vernier::model
