// Throughput against a copy of memory in the same run. Every row reports
//   bytes/s   bytes read and written by the job's definition, not counting caches' extra traffic,
//   weights   weights a second,
//   of_copy   bytes/s over those of a copy with as many threads, measured first.
// Buffers are far larger than the caches. Run with --benchmark_min_time=1 for stable figures.
#include <benchmark/benchmark.h>
#include <malloc.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "formats/format.h"
#include "formats/nvfp4.h"
#include "formats/nvfp4_search.h"
#include "formats/test_weights.h"

namespace vernier::formats {
namespace {

constexpr int64_t kRows = 16384;
constexpr int64_t kCols = 4096;  // 128 MiB of BF16

const Tensor& big_weight() {
  static const Tensor weight = [] {
    // A Gaussian tile, repeated with changing signs and a changing offset: the random numbers are
    // slow.
    const std::vector<float> tile = gaussian_values(1 << 16, 1);
    Tensor tensor(DType::kBF16, {kRows, kCols});
    const auto codes = tensor.as<uint16_t>();
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = float_to_bf16(tile[(i * 31 + i / tile.size()) % tile.size()]);
    }
    return tensor;
  }();
  return weight;
}

// memcpy of slices by all threads; the best of several, bytes read + written a second.
double copy_rate() {
  static const double rate = [] {
    const auto from = big_weight().view().bytes();
    Tensor to(DType::kBF16, {kRows, kCols});
    double best = 0;
    for (int repeat = 0; repeat < 12; ++repeat) {
      const auto start = std::chrono::steady_clock::now();
#pragma omp parallel for schedule(static)
      for (int64_t row = 0; row < kRows; ++row) {
        std::memcpy(to.data() + row * kCols * 2, from.data() + row * kCols * 2, kCols * 2);
      }
      const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      best = std::max(best, 2 * static_cast<double>(from.size()) / seconds.count());
    }
    return best;
  }();
  return rate;
}

using benchmark::Counter;

void report(benchmark::State& state, double bytes, double weights) {
  const auto n = static_cast<double>(state.iterations());
  state.counters["bytes/s"] = Counter(bytes * n, Counter::kIsRate);
  state.counters["weights"] = Counter(weights * n, Counter::kIsRate);
  state.counters["of_copy"] = Counter(bytes * n / copy_rate(), Counter::kIsRate);
}

void copy(benchmark::State& state) {
  const auto from = big_weight().view().bytes();
  Tensor to(DType::kBF16, {kRows, kCols});
  copy_rate();
  for (auto _ : state) {
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < kRows; ++row) {
      std::memcpy(to.data() + row * kCols * 2, from.data() + row * kCols * 2, kCols * 2);
    }
    benchmark::ClobberMemory();
  }
  report(state, 2.0 * static_cast<double>(from.size()), static_cast<double>(kRows * kCols));
}

double traffic(const Format& format, int64_t n, int64_t k) {
  return static_cast<double>(2 * n * k + packed_bytes(format, n, k));
}

void encode(benchmark::State& state, const Format* format, const EncodeOptions& options) {
  const Tensor& weight = big_weight();
  copy_rate();
  for (auto _ : state) {
    benchmark::DoNotOptimize(format->encode(weight.view(), options).planes[0].data());
  }
  report(state, traffic(*format, kRows, kCols), static_cast<double>(kRows * kCols));
}

void encode_small(benchmark::State& state, const Format* format) {
  const Tensor weight = gaussian_tensor(128, 128, 1);
  copy_rate();
  const EncodeOptions options = {.global_amax = scan_amax(weight.view()).amax};
  for (auto _ : state) {
    benchmark::DoNotOptimize(format->encode(weight.view(), options).planes[0].data());
  }
  report(state, traffic(*format, 128, 128), 128 * 128);
}

// Rows that stay in cache, as a product would unpack them: one thread.
void decode(benchmark::State& state, const Format* format) {
  const Tensor weight = gaussian_tensor(16, kCols, 1);
  const PackedTensor packed = format->encode(weight.view(), {});
  std::vector<float> out(16 * kCols);
  copy_rate();
  for (auto _ : state) {
    format->decode_rows(packed.view(), 0, 16, out.data());
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(packed_bytes(*format, 16, kCols) + 4 * 16 * kCols), 16 * kCols);
}

void round_input(benchmark::State& state, const Format* format) {
  std::vector<float> x = gaussian_values(16 * kCols, 1, 1.0);
  copy_rate();
  for (auto _ : state) {
    format->round_input({x.data(), 16, kCols}, 4.0f / format->input_divisor);
    benchmark::ClobberMemory();
  }
  report(state, 8.0 * 16 * kCols, 16 * kCols);
}

void scan(benchmark::State& state) {
  copy_rate();
  for (auto _ : state) benchmark::DoNotOptimize(scan_amax(big_weight().view()));
  report(state, 2.0 * kRows * kCols, static_cast<double>(kRows * kCols));
}

void distortion(benchmark::State& state, const Format* format) {
  const PackedTensor packed = format->encode(big_weight().view(), {});
  copy_rate();
  for (auto _ : state) {
    benchmark::DoNotOptimize(measure_distortion(big_weight().view(), packed.view()));
  }
  report(state, traffic(*format, kRows, kCols), static_cast<double>(kRows * kCols));
}

// The sweep on one thread, by skipping codes and by trying all 126 with the same vector unit.
void sweep(benchmark::State& state, decltype(nvfp4_sweep)* search) {
  const Tensor weight = gaussian_tensor(64, 1024, 1);
  const int64_t n_blocks = weight.size() / kNvfp4Block;
  const Nvfp4SweepTable table(scan_amax(weight.view()).amax, Arithmetic::kCuda);
  std::vector<uint8_t> scales(static_cast<size_t>(n_blocks));
  copy_rate();
  for (auto _ : state) {
    search(weight.as<uint16_t>().data(), n_blocks, table, scales.data());
    benchmark::ClobberMemory();
  }
  report(state, 33.0 * static_cast<double>(n_blocks), static_cast<double>(weight.size()));
}

EncodeOptions with_amax(const ScaleRule& rule = {}) {
  return {.rule = rule, .global_amax = scan_amax(big_weight().view()).amax};
}

[[maybe_unused]] const bool kRegistered = [] {
  // Freed planes stay with the process, as in an export of many tensors: what is measured is
  // packing, not the first touch of fresh pages.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  const auto add = [](const std::string& name, auto&& body) {
    benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMicrosecond);
  };
  const Format* const nvfp4 = find_format("nvfp4");
  const Format* const fp8 = find_format("fp8_e4m3");
  const ScaleRule fp8_sweep = {.method = ScaleMethod::kFp8Sweep, .is_static = true};
  const ScaleRule four_over_six = {.method = ScaleMethod::kMultipliers,
                                   .is_static = true,
                                   .four_over_six = true,
                                   .start = 1.0f,
                                   .stop = 1.5f,
                                   .step = 0.5f};
  add("copy", [](auto& state) { copy(state); });
  add("encode/nvfp4/max", [=](auto& state) { encode(state, nvfp4, with_amax()); });
  add("encode/nvfp4/amax_and_max", [=](auto& state) { encode(state, nvfp4, {}); });
  add("encode/nvfp4/four_over_six",
      [=](auto& state) { encode(state, nvfp4, with_amax(four_over_six)); });
  add("encode/nvfp4/fp8_sweep", [=](auto& state) { encode(state, nvfp4, with_amax(fp8_sweep)); });
  add("encode/fp8_e4m3/max", [=](auto& state) { encode(state, fp8, with_amax()); });
  add("encode/fp8_e4m3/amax_and_max", [=](auto& state) { encode(state, fp8, {}); });
  add("encode_128x128/nvfp4/max", [=](auto& state) { encode_small(state, nvfp4); });
  add("encode_128x128/fp8_e4m3/max", [=](auto& state) { encode_small(state, fp8); });
  add("sweep_1_thread/skipping", [](auto& state) { sweep(state, nvfp4_sweep); });
  add("sweep_1_thread/all_codes", [](auto& state) { sweep(state, nvfp4_sweep_all); });
  add("scan_amax", [](auto& state) { scan(state); });
  for (const Format* format : all_formats()) {
    const std::string name(format->name);
    add("decode_1_thread/" + name, [=](auto& state) { decode(state, format); });
    add("distortion/" + name, [=](auto& state) { distortion(state, format); });
    if (format->round_input == nullptr) continue;
    add("round_input_1_thread/" + name, [=](auto& state) { round_input(state, format); });
  }
  return true;
}();

}  // namespace
}  // namespace vernier::formats
