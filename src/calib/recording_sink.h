// For tests: a sink that keeps everything in memory, and can fail as a full disk would.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <string_view>

#include "base/error.h"
#include "quant/sink.h"

namespace vernier::calib {

// What has arrived, over all runs that wrote to it.
struct Arrived {
  std::map<std::string, std::string> tensors;  // by checkpoint name: bytes
  std::map<std::string, float> input_amax;     // by module
  std::map<std::string, std::pair<float, float>> kv_amax;

  bool operator==(const Arrived&) const = default;
};

class RecordingSink : public quant::QuantizedSink {
 public:
  // One run, which writes into `arrived` and fails at the call number `fails_at` of any method.
  explicit RecordingSink(Arrived& arrived, int fails_at = -1)
      : arrived_(arrived), fails_at_(fails_at) {}

  void write_weight(const model::Module& module, const formats::PackedView& packed) override {
    count_call();
    for (const formats::PlaneSpec& plane : packed.format->planes) {
      write(module.name + "." + std::string(plane.suffix), packed.plane(plane.role));
    }
  }
  void copy_tensor(std::string_view name, const TensorView& tensor) override {
    count_call();
    write(std::string(name), tensor);
  }
  void write_input_amax(const model::Module& module, float amax) override {
    count_call();
    arrived_.input_amax[module.name] = amax;
  }
  void write_kv_amax(const model::AttentionSite& site, float k_amax, float v_amax) override {
    count_call();
    arrived_.kv_amax[site.name] = {k_amax, v_amax};
  }
  void sync() override {
    count_call();
    unsynced_.clear();
  }
  void finish() override {
    count_call();
    is_finished_ = true;
  }

  const std::set<std::string>& written() const { return written_; }  // names, in this run
  const std::set<std::string>& unsynced() const {
    return unsynced_;
  }  // of these, since the last sync
  int n_calls() const { return n_calls_; }
  bool is_finished() const { return is_finished_; }

 private:
  void count_call() {
    EXPECT_FALSE(is_finished_);
    if (n_calls_++ == fails_at_) throw Error(ErrorKind::kEnvironment, "disk full");
  }
  void write(const std::string& name, const TensorView& tensor) {
    EXPECT_TRUE(written_.insert(name).second) << name << " was written twice";
    unsynced_.insert(name);
    const auto bytes = tensor.bytes();
    arrived_.tensors[name] = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  Arrived& arrived_;
  int fails_at_;
  int n_calls_ = 0;
  bool is_finished_ = false;
  std::set<std::string> written_;
  std::set<std::string> unsynced_;
};

}  // namespace vernier::calib
