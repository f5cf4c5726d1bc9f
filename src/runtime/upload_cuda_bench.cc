// How fast a mapped file reaches a device: one MoE layer of Nemotron 3 Super (5.7 GB in BF16, 1027
// tensors) through an upload queue, against page-locked copies of as many bytes in the same run.
// Rounds alternate; the figures are medians. VERNIER_BENCH_DIR says where the file goes (/dev/shm).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/median.h"
#include "io/mapped_file.h"
#include "tensor/device.h"

namespace vernier::runtime {
namespace {

constexpr int64_t kExpertBytes = int64_t{2688} * 1024 * 2;
constexpr int kTensors = 1024;  // up and down of 512 experts
constexpr int64_t kLayerBytes = kExpertBytes * kTensors;
constexpr int64_t kPinnedBytes = int64_t{256} << 20;

class LayerFile {
 public:
  LayerFile() {
    const char* directory = std::getenv("VERNIER_BENCH_DIR");
    path_ = std::filesystem::path(directory == nullptr ? "/dev/shm" : directory) / "vernier-bench";
    std::ofstream file(path_, std::ios::binary);
    std::vector<uint32_t> noise(kExpertBytes / 4);
    uint32_t state = 1;
    for (uint32_t& word : noise) word = state = state * 1664525u + 1013904223u;
    for (int tensor = 0; tensor < kTensors; ++tensor) {
      file.write(reinterpret_cast<const char*>(noise.data()), kExpertBytes);
    }
  }
  ~LayerFile() { std::filesystem::remove(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double upload_layer(Device& device, UploadQueue& queue, const io::MappedFile& file) {
  const auto start = Clock::now();
  std::vector<std::byte*> tensors;
  int64_t ticket = 0;
  for (int tensor = 0; tensor < kTensors; ++tensor) {
    const UploadQueue::Upload upload =
        queue.push(file.bytes().data() + tensor * kExpertBytes, kExpertBytes);
    tensors.push_back(upload.data);
    ticket = upload.ticket;
  }
  queue.wait(ticket);
  device.synchronize();
  const double seconds = seconds_since(start);
  for (std::byte* tensor : tensors) device.free(tensor);
  return seconds;
}

double copy_pinned(Device& device, const void* from, std::byte* to) {
  const auto start = Clock::now();
  for (int64_t done = 0; done < kLayerBytes; done += kPinnedBytes) {
    device.copy_pinned(to, from, kPinnedBytes);
  }
  device.synchronize();
  return seconds_since(start);
}

void upload_moe_layer(benchmark::State& state) {
  if (n_devices() == 0) {
    state.SkipWithError("no CUDA device");
    return;
  }
  const auto device = open_device({});
  const LayerFile layer;
  const io::MappedFile file(layer.path());
  const auto queue = device->new_upload_queue(static_cast<int>(state.range(0)));
  void* pinned = device->allocate_pinned(kPinnedBytes);
  std::byte* target = device->allocate(kPinnedBytes);
  std::vector<double> uploads, copies;
  for (auto _ : state) {
    copies.push_back(copy_pinned(*device, pinned, target));
    uploads.push_back(upload_layer(*device, *queue, file));
    state.SetIterationTime(uploads.back());
  }
  device->free(target);
  device->free_pinned(pinned);
  state.counters["GB/s"] = kLayerBytes / median(uploads) / 1e9;
  state.counters["pinned_GB/s"] = kLayerBytes / median(copies) / 1e9;
  state.counters["of_pinned"] = median(copies) / median(uploads);
}

BENCHMARK(upload_moe_layer)
    ->ArgName("threads")
    ->Arg(1)
    ->Arg(4)
    ->Arg(8)
    ->Iterations(5)
    ->UseManualTime();

}  // namespace
}  // namespace vernier::runtime
