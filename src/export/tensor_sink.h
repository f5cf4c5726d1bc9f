// The part that both kinds of output share: planes, copies and calibrated scalars go to their place
// in the planned files. What they differ in, the files around the tensors, is left to
// write_descriptions.
#pragma once

#include <filesystem>

#include "export/output_plan.h"
#include "export/tensor_files.h"
#include "formats/scale_rule.h"
#include "quant/sink.h"

namespace vernier::exporting {

// The stored k_scale and v_scale are the maxima over this, whatever the cache's format.
inline constexpr float kKvDivisor = 448.0f;

class TensorSink : public quant::QuantizedSink {
 public:
  struct Options {
    std::filesystem::path directory;
    ScalarForm form = ScalarForm::kScale;
    formats::Arithmetic arithmetic = formats::Arithmetic::kCuda;
    bool resume = false;
  };

  // `plan` must outlive the sink. Inputs with a constant amax get their scalar here: nothing
  // observes them.
  TensorSink(const Options& options, const quant::QuantPlan& plan,
             const std::vector<SlicedTensor>& tensors);

  void write_weight(const model::Module& module, const formats::PackedView& packed) override;
  void copy_tensor(std::string_view name, const TensorView& tensor) override;
  void write_input_amax(const model::Module& module, float amax) override;
  void write_kv_amax(const model::AttentionSite& site, float k_amax, float v_amax) override;
  void sync() override { files_.sync(); }
  void finish() override;

 protected:
  // Configs, index, sidecar files; called when every tensor is in place.
  virtual void write_descriptions() = 0;

  const std::filesystem::path& directory() const { return options_.directory; }

 private:
  // The amax itself, or the scale made from it. Throws Corrupt when it is not a positive finite
  // number: servers divide by it.
  float stored_scalar(std::string_view name, float amax, float divisor) const;

  Options options_;
  const quant::QuantPlan& plan_;
  TensorFiles files_;
};

}  // namespace vernier::exporting
