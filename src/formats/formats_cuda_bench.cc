// Throughput of the device codecs against a copy of device memory in the same run. Every row is the
// median of 15 runs timed by events, queued without a pause after three that warm up, and reports
//   bytes/s       bytes read and written by the job's definition,
//   of_copy       bytes/s over those of the copy, measured first,
//   input_bytes/s bytes of BF16 read by the job's definition.
// A row that has no amax given reads the weight twice, and counts it twice. The weight is ten times
// as large as the largest second-level cache.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "base/median.h"
#include "formats/format.h"
#include "formats/nvfp4.h"
#include "formats/test_weights.h"
#include "tensor/device_bench.h"
#include "tensor/device_cuda.h"

namespace vernier::formats {
namespace {

constexpr int64_t kRows = 16384;
constexpr int64_t kCols = 16384;  // 512 MiB of BF16
constexpr int64_t kElems = kRows * kCols;

// Never freed: the driver may be gone when static objects are destroyed.
Device* device() {
  static Device* const device = open_device({}).release();
  return device;
}

const Tensor& big_weight() {
  static const Tensor* const weight = [] {
    // A Gaussian tile, shuffled and repeated to 32 MiB, uploaded as often as it takes.
    const std::vector<float> tile = gaussian_values(1 << 16, 1);
    Tensor part(DType::kBF16, {1 << 24});
    const auto codes = part.as<uint16_t>();
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = float_to_bf16(tile[(i * 31 + i / tile.size() * 977) % tile.size()]);
    }
    auto* const whole = new Tensor(DType::kBF16, {kRows, kCols}, device());
    const int64_t part_bytes = part.view().size_bytes();
    for (int64_t at = 0; at < whole->view().size_bytes(); at += part_bytes) {
      device()->copy_from_host(whole->data() + at, part.data(), part_bytes);
    }
    return whole;
  }();
  return *weight;
}

float big_amax() {
  static const float amax = scan_amax(big_weight().view()).amax;
  return amax;
}

double median_seconds(const std::function<void()>& job) {
  constexpr int kRuns = 15;
  constexpr int kWarmUps = 3;
  std::vector<cudaEvent_t> events(kRuns + 1);
  for (cudaEvent_t& event : events) VERNIER_CUDA(cudaEventCreate(&event));
  const cudaStream_t stream = stream_of(device());
  for (int run = 0; run < kWarmUps; ++run) job();
  VERNIER_CUDA(cudaEventRecord(events[0], stream));
  for (size_t run = 0; run < kRuns; ++run) {
    job();
    VERNIER_CUDA(cudaEventRecord(events[run + 1], stream));
  }
  device()->synchronize();
  std::vector<double> seconds;
  for (size_t run = 0; run < kRuns; ++run) {
    float milliseconds = 0;
    VERNIER_CUDA(cudaEventElapsedTime(&milliseconds, events[run], events[run + 1]));
    seconds.push_back(milliseconds / 1e3);
  }
  for (const cudaEvent_t event : events) VERNIER_CUDA(cudaEventDestroy(event));
  return median(std::move(seconds));
}

void copy_big_weight() {
  Tensor to(DType::kBF16, {kRows, kCols}, device());
  device()->copy(to.data(), big_weight().view().data, big_weight().view().size_bytes());
}
constexpr double kCopyBytes = 4.0 * kElems;

double copy_rate() {
  static const double rate = kCopyBytes / median_seconds(copy_big_weight);
  return rate;
}

// `bytes` and `input_bytes`: what one run of the job moves, and the BF16 input in it.
void measure(benchmark::State& state, double bytes, double input_bytes,
             const std::function<void()>& job) {
  const double ceiling = copy_rate();
  const double seconds = median_seconds(job);
  for (auto _ : state) state.SetIterationTime(seconds);
  state.counters["bytes/s"] = bytes / seconds;
  state.counters["of_copy"] = bytes / seconds / ceiling;
  state.counters["input_bytes/s"] = input_bytes / seconds;
}

double packed_bytes_of(const Format& format) {
  return static_cast<double>(packed_bytes(format, kRows, kCols));
}

void encode(benchmark::State& state, const Format& format, const EncodeOptions& options) {
  const int n_reads = options.global_amax ? 1 : 2;
  measure(state, 2.0 * n_reads * kElems + packed_bytes_of(format), 2.0 * kElems,
          [&] { encode_weight(format, big_weight().view(), options); });
}

// The experts of a mixture: weights of which the second-level cache holds several, one after the
// other.
void encode_experts(benchmark::State& state, const Format& format, const EncodeOptions& options) {
  constexpr int64_t kN = 1856;
  constexpr int64_t kK = 2688;
  constexpr int64_t kExperts = 50;
  const int n_reads = options.global_amax ? 1 : 2;
  const double weights = kExperts * kN * kK;
  measure(state,
          2.0 * n_reads * weights + kExperts * static_cast<double>(packed_bytes(format, kN, kK)),
          2.0 * weights, [&] {
            for (int64_t expert = 0; expert < kExperts; ++expert) {
              const std::byte* const data = big_weight().view().data + 2 * expert * kN * kK;
              encode_weight(format, {DType::kBF16, {kN, kK}, data, device()}, options);
            }
          });
}

void decode(benchmark::State& state, const Format& format) {
  const PackedTensor packed =
      encode_weight(format, big_weight().view(), {.global_amax = big_amax()});
  AnyMatrix out(kRows, kCols, DType::kBF16, device());
  measure(state, packed_bytes_of(format) + 2.0 * kElems, 0,
          [&] { format.device_codec->decode_rows(packed.view(), 0, out); });
}

void encode_input(benchmark::State& state, const Format& format) {
  const ConstAnyMatrixView x(big_weight().view().data, kRows, kCols, kCols, DType::kBF16, device());
  AnyMatrix codes(kRows, kCols, format.device_codec->input_dtype.value_or(DType::kBF16), device());
  const float scale = big_amax() / format.input_divisor;
  measure(state, 2.0 * kElems + static_cast<double>(codes.size_bytes()), 2.0 * kElems,
          [&] { format.device_codec->encode_input(x, scale, codes); });
}

void scan(benchmark::State& state) {
  measure(state, 2.0 * kElems, 2.0 * kElems, [] { scan_amax(big_weight().view()); });
}

void distortion(benchmark::State& state, const Format& format) {
  const PackedTensor packed =
      encode_weight(format, big_weight().view(), {.global_amax = big_amax()});
  measure(state, 2.0 * kElems + packed_bytes_of(format), 2.0 * kElems,
          [&] { measure_distortion(big_weight().view(), packed.view()); });
}

// One encoder with the weight's amax given, then with the pass that finds it.
void add_encode(const Format* format, const std::string& rule_name, const ScaleRule& rule) {
  const std::string name = "encode/cuda/" + std::string(format->name) + "/" + rule_name;
  add_device_bench(name, [=](auto& state) {
    encode(state, *format, {.rule = rule, .global_amax = big_amax()});
  });
  add_device_bench(name + "/with_amax",
                   [=](auto& state) { encode(state, *format, {.rule = rule}); });
}

[[maybe_unused]] const bool kRegistered = [] {
  const ScaleRule static_max = {.is_static = true};
  const ScaleRule multipliers = {.method = ScaleMethod::kMultipliers, .is_static = true};
  const ScaleRule sweep = {.method = ScaleMethod::kFp8Sweep, .is_static = true};
  const Format* const nvfp4 = find_format("nvfp4");
  const Format* const fp8 = find_format("fp8_e4m3");
  add_device_bench("copy/cuda",
                   [](auto& state) { measure(state, kCopyBytes, 2.0 * kElems, copy_big_weight); });
  add_device_bench("scan_amax/cuda", scan);
  add_encode(nvfp4, "max", {});
  add_encode(nvfp4, "static_max", static_max);
  add_encode(nvfp4, "fp8_sweep", sweep);
  add_encode(nvfp4, "four_over_six", kFourOverSix);
  add_encode(nvfp4, "multipliers", multipliers);
  add_encode(fp8, "max", {});
  add_encode(fp8, "multipliers", multipliers);
  for (const Format* format : {nvfp4, fp8}) {
    const std::string name(format->name);
    add_device_bench("encode_experts/cuda/" + name + "/max", [=](auto& state) {
      encode_experts(state, *format, {.global_amax = big_amax()});
    });
    add_device_bench("encode_experts/cuda/" + name + "/max/with_amax",
                     [=](auto& state) { encode_experts(state, *format, {}); });
    add_device_bench("decode/cuda/" + name, [=](auto& state) { decode(state, *format); });
    add_device_bench("encode_input/cuda/" + name,
                     [=](auto& state) { encode_input(state, *format); });
    add_device_bench("distortion/cuda/" + name, [=](auto& state) { distortion(state, *format); });
  }
  return true;
}();

}  // namespace
}  // namespace vernier::formats
