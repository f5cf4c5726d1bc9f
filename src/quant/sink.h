// Where a quantized model goes while it is being made: a Hugging Face directory, a sharded
// checkpoint, or both. Weights arrive one module at a time, in any order, and are never held.
#pragma once

#include <string_view>

#include "formats/format.h"
#include "model/module.h"

namespace vernier::quant {

class QuantizedSink {
 public:
  virtual ~QuantizedSink() = default;

  // The packed planes of a quantized module.
  virtual void write_weight(const model::Module& module, const formats::PackedView& packed) = 0;
  // A tensor of the source that is not quantized, by its checkpoint name: copied as it is.
  virtual void copy_tensor(std::string_view name, const TensorView& tensor) = 0;
  // Calibrated maxima: of a module's input, and of an attention layer's keys and values.
  virtual void write_input_amax(const model::Module& module, float amax) = 0;
  virtual void write_kv_amax(const model::AttentionSite& site, float k_amax, float v_amax) = 0;
  // Makes what was written so far durable.
  virtual void sync() = 0;
  // Everything was written: configs, index, sidecar files. The directory is complete after this.
  virtual void finish() = 0;
};

}  // namespace vernier::quant
