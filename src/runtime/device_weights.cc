#include "runtime/device_weights.h"

#include <algorithm>
#include <thread>
#include <utility>

namespace vernier::runtime {
namespace {

// Readers of mapped files: each copies at a few GB/s, the bus takes some fifty.
int n_upload_threads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, 8);
}

}  // namespace

DeviceWeights::DeviceWeights(std::shared_ptr<const model::WeightSource> source, Device& device)
    : source_(std::move(source)),
      device_(device),
      queue_(device.new_upload_queue(n_upload_threads())) {}

// What is still being copied must not be freed before.
DeviceWeights::~DeviceWeights() { queue_.reset(); }

model::LinearWeight DeviceWeights::linear(const model::Module& module) const {
  const auto found = resident_.find(&module);
  const Resident& resident = found == resident_.end() ? upload(module) : found->second;
  queue_->wait(resident.last_ticket);
  return {.packed = resident.packed->view(), .owner = resident.packed, .input = resident.input};
}

void DeviceWeights::will_need(const model::Module& module) const {
  if (module.has_matrix() && !resident_.contains(&module)) upload(module);
}

void DeviceWeights::done_with(const model::Module& module) const {
  const auto found = resident_.find(&module);
  if (found != resident_.end()) {
    queue_->wait(found->second.last_ticket);  // its reader is done with the source
    resident_.erase(found);
  }
  source_->done_with(module);
}

DeviceWeights::Resident& DeviceWeights::upload(const model::Module& module) const {
  const model::LinearWeight weight = source_->linear(module);
  auto packed = std::make_shared<formats::PackedTensor>();
  packed->format = weight.packed.format;
  packed->n = weight.packed.n;
  packed->k = weight.packed.k;
  Resident resident{.packed = packed, .input = weight.input, .source = weight.owner};
  for (const formats::PlaneSpec& plane : packed->format->planes) {
    const TensorView& view = weight.packed.plane(plane.role);
    if (plane.role == formats::PlaneRole::kGlobalScale) {
      packed->plane(plane.role) = to_device(view, nullptr);
      continue;
    }
    const UploadQueue::Upload upload = queue_->push(view.data, view.size_bytes());
    packed->plane(plane.role) = Tensor::adopt(view.dtype, view.shape, &device_, upload.data);
    resident.last_ticket = upload.ticket;
  }
  return resident_[&module] = std::move(resident);
}

}  // namespace vernier::runtime
