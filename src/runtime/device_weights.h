// Weights of a host source on a device: linears are uploaded when they are needed, or before, and
// dropped when a layer is done with. A model that fits stays there; one that does not streams
// through.
#pragma once

#include <memory>
#include <unordered_map>

#include "model/weight_source.h"
#include "tensor/device.h"

namespace vernier::runtime {

class DeviceWeights : public model::WeightSource {
 public:
  // `device` must outlive this.
  DeviceWeights(std::shared_ptr<const model::WeightSource> source, Device& device);
  ~DeviceWeights() override;

  Device* device() const override { return &device_; }
  // Codes and block scales are on the device for work queued after this; waits until the host's
  // copy has been read. The owner keeps them there when done_with() has been called.
  model::LinearWeight linear(const model::Module& module) const override;
  // Small tensors stay with the host, whose reader converts them.
  TensorView tensor(const model::TensorSpec& spec) const override { return source_->tensor(spec); }
  model::KvRule kv_rule(const model::AttentionSite& site) const override {
    return source_->kv_rule(site);
  }
  // Starts to upload a linear or an embedding.
  void will_need(const model::Module& module) const override;
  void done_with(const model::Module& module) const override;

 private:
  struct Resident {
    std::shared_ptr<const formats::PackedTensor> packed;
    kernels::InputRule input;
    // What is read until the last upload is done, where the source does not keep it itself.
    std::shared_ptr<const formats::PackedTensor> source;
    int64_t last_ticket = 0;
  };
  Resident& upload(const model::Module& module) const;

  std::shared_ptr<const model::WeightSource> source_;
  Device& device_;
  std::unique_ptr<UploadQueue> queue_;
  mutable std::unordered_map<const model::Module*, Resident> resident_;
};

}  // namespace vernier::runtime
