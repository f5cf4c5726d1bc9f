// The weights of a sharded checkpoint, for every rank or as a tensor rank's share.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "export/slice_store.h"
#include "model/weight_source.h"

namespace vernier::exporting {

// Scales are made from the stored maxima as an export makes them. What one mapped file holds in one
// run is not copied. The rest is put together when it is asked for: a layer's linear belongs to who
// asked for it; other tensors, and what lies outside of the stack and is needed for every token,
// are kept until done_with().
class ShardedWeights : public model::WeightSource {
 public:
  // REQUIRES: a manifest with an entry for every linear and embedding that will be asked for.
  ShardedWeights(std::shared_ptr<const SliceStore> store, const Manifest& manifest);

  // What one of several tensor ranks computes with, bit for bit what model::PartitionedWeights
  // cuts from the whole, but nothing else is read.
  std::shared_ptr<const model::WeightSource> share(comm::Share tensor) const override;

  // Throws NotFound or Corrupt where linear() or tensor() would; reads no weights.
  void check(const model::Module& module) const;
  // A stored maximum. Throws Corrupt when it is not a positive finite number.
  float amax(const std::string& name) const;

  model::LinearWeight linear(const model::Module& module) const override;
  TensorView tensor(const model::TensorSpec& spec) const override;
  model::KvRule kv_rule(const model::AttentionSite& site) const override;
  void will_need(const model::Module& module) const override;
  void done_with(const model::Module& module) const override;

 private:
  struct Records {
    formats::Arithmetic arithmetic;
    std::unordered_map<std::string, SiteRecord> sites;
    std::unordered_map<std::string, KvRecord> kv;
  };
  ShardedWeights(std::shared_ptr<const SliceStore> store, std::shared_ptr<const Records> records,
                 comm::Share share);

  model::LinearWeight read_linear(const model::Module& module) const;
  // Codes and scales; of this share where the weight is cut.
  model::LinearWeight read_packed(const model::Module& module, const formats::Format& format) const;
  // Where the format's blocks do not allow a share to be read alone: cut from the whole.
  model::LinearWeight cut_whole(const model::Module& module, const formats::Format& format) const;

  float scale(const std::string& amax_name, float divisor) const;
  void check_planes(const model::Module& module, const formats::Format& format) const;
  void check_shape(const model::TensorSpec& spec) const;
  bool is_cut(const model::Cut& cut) const { return share_.count > 1 && cut.is_cut(); }
  // This share of a tensor, or the whole.
  FoundTensor read(const std::string& name, const model::Cut& cut) const;
  template <class Advice>
  void advise(const model::Module& module, const Advice& advice) const;
  template <class Advice>
  void advise(const std::string& name, const model::Cut& cut, const Advice& advice) const;

  std::shared_ptr<const SliceStore> store_;
  std::shared_ptr<const Records> records_;
  comm::Share share_;

  mutable std::mutex mutex_;
  // By the name of a module outside of the stack, and of a tensor.
  mutable std::unordered_map<std::string, model::LinearWeight> linears_;
  mutable std::unordered_map<std::string, FoundTensor> tensors_;
};

}  // namespace vernier::exporting
