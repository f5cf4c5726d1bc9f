// Throughput against a copy of memory. Every iteration is a pair: a copy, then the work, so that
// both meet the machine in the same state. A row reports
//   bytes/s          median; bytes read and written by the job's definition, not counting caches'
//                    extra traffic,
//   weights          weights a second, median,
//   of_copy          the median over pairs of bytes/s over the copy's, by as many threads,
//   of_copy_q1, _q3  its quartiles: the middle half of the pairs lies between them,
//   pairs            how many there were: kPairs.
// Large buffers are far beyond the caches. The row `copy` compares a copy with a copy: how far its
// quartiles are apart is the machine's noise.
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
constexpr int kPairs = 25;

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

// memcpy of slices: as much memory as the big weight, read once and written once.
class Copy {
 public:
  explicit Copy(int n_threads) : n_threads_(n_threads), to_(DType::kBF16, {kRows, kCols}) {}

  void operator()() {
    const std::byte* from = big_weight().view().bytes().data();
#pragma omp parallel for schedule(static) num_threads(n_threads_)
    for (int64_t row = 0; row < kRows; ++row) {
      std::memcpy(to_.data() + row * kRowBytes, from + row * kRowBytes, kRowBytes);
    }
    benchmark::ClobberMemory();
  }
  double bytes() const { return 2.0 * kRows * kRowBytes; }

 private:
  static constexpr int64_t kRowBytes = 2 * kCols;
  int n_threads_;
  Tensor to_;
};

template <class Work>
double seconds_of(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// By linear interpolation between neighbours. REQUIRES: sorted, not empty.
double quantile(const std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return quantile(values, 0.5);
}

void report_ratio(benchmark::State& state, const std::string& name, std::vector<double> of_pair) {
  std::ranges::sort(of_pair);
  state.counters[name] = quantile(of_pair, 0.5);
  state.counters[name + "_q1"] = quantile(of_pair, 0.25);
  state.counters[name + "_q3"] = quantile(of_pair, 0.75);
  state.counters["pairs"] = static_cast<double>(of_pair.size());
}

// What one call of the work reads and writes, and how it is run.
struct Job {
  double bytes;
  double weights;
  int n_threads = omp_get_max_threads();
  int n_calls = 1;  // in a pair; short work is repeated until a clock can time it
};

template <class Work>
void run_pairs(benchmark::State& state, const Job& job, Work&& work) {
  Copy copy(job.n_threads);
  copy();  // the first touch of its pages
  work();
  std::vector<double> seconds;
  std::vector<double> of_copy;
  for (auto _ : state) {
    const double copy_rate = copy.bytes() / seconds_of(copy);
    seconds.push_back(seconds_of([&] {
                        for (int call = 0; call < job.n_calls; ++call) work();
                      }) /
                      job.n_calls);
    of_copy.push_back(job.bytes / seconds.back() / copy_rate);
    state.SetIterationTime(seconds.back());
  }
  state.counters["bytes/s"] = job.bytes / median(seconds);
  state.counters["weights"] = job.weights / median(seconds);
  report_ratio(state, "of_copy", std::move(of_copy));
}

void copy(benchmark::State& state) {
  Copy work(omp_get_max_threads());
  run_pairs(state, {.bytes = work.bytes(), .weights = kRows * kCols}, work);
}

double traffic(const Format& format, int64_t n, int64_t k) {
  return static_cast<double>(2 * n * k + packed_bytes(format, n, k));
}

void encode(benchmark::State& state, const Format* format, const EncodeOptions& options) {
  const TensorView weight = big_weight().view();
  run_pairs(state, {.bytes = traffic(*format, kRows, kCols), .weights = kRows * kCols},
            [&] { benchmark::DoNotOptimize(format->encode(weight, options).planes[0].data()); });
}

void encode_small(benchmark::State& state, const Format* format) {
  const Tensor weight = gaussian_tensor(128, 128, 1);
  const EncodeOptions options = {.global_amax = scan_amax(weight.view()).amax};
  run_pairs(
      state, {.bytes = traffic(*format, 128, 128), .weights = 128 * 128, .n_calls = 500},
      [&] { benchmark::DoNotOptimize(format->encode(weight.view(), options).planes[0].data()); });
}

// Rows that stay in cache, as a product would unpack them.
void decode(benchmark::State& state, const Format* format) {
  const Tensor weight = gaussian_tensor(16, kCols, 1);
  const PackedTensor packed = format->encode(weight.view(), {});
  std::vector<float> out(16 * kCols);
  run_pairs(state,
            {.bytes = static_cast<double>(packed_bytes(*format, 16, kCols) + 4 * 16 * kCols),
             .weights = 16 * kCols,
             .n_threads = 1,
             .n_calls = 200},
            [&] {
              format->decode_rows(packed.view(), 0, 16, out.data());
              benchmark::ClobberMemory();
            });
}

void round_input(benchmark::State& state, const Format* format) {
  std::vector<float> x = gaussian_values(16 * kCols, 1, 1.0);
  run_pairs(state,
            {.bytes = 8.0 * 16 * kCols, .weights = 16 * kCols, .n_threads = 1, .n_calls = 200},
            [&] {
              format->round_input({x.data(), 16, kCols}, 4.0f / format->input_divisor);
              benchmark::ClobberMemory();
            });
}

void scan(benchmark::State& state) {
  run_pairs(state, {.bytes = 2.0 * kRows * kCols, .weights = kRows * kCols},
            [] { benchmark::DoNotOptimize(scan_amax(big_weight().view())); });
}

void distortion(benchmark::State& state, const Format* format) {
  const PackedTensor packed = format->encode(big_weight().view(), {});
  run_pairs(state, {.bytes = traffic(*format, kRows, kCols), .weights = kRows * kCols}, [&] {
    benchmark::DoNotOptimize(measure_distortion(big_weight().view(), packed.view()));
  });
}

// The sweep that skips codes against trying all 126 with the same vector unit, also in pairs, on
// one thread: `speedup` instead of `of_copy`.
void sweep(benchmark::State& state) {
  const Tensor weight = gaussian_tensor(64, 1024, 1);
  const int64_t n_blocks = weight.size() / kNvfp4Block;
  const Nvfp4SweepTable table(scan_amax(weight.view()).amax, Arithmetic::kCuda);
  std::vector<uint8_t> scales(static_cast<size_t>(n_blocks));
  const auto seconds_of_ten = [&](decltype(nvfp4_sweep)* search) {
    return seconds_of([&] {
      for (int call = 0; call < 10; ++call) {
        search(weight.as<uint16_t>().data(), n_blocks, table, scales.data());
        benchmark::ClobberMemory();
      }
    });
  };
  std::vector<double> seconds;
  std::vector<double> speedup;
  for (auto _ : state) {
    const double all_codes = seconds_of_ten(nvfp4_sweep_all);
    seconds.push_back(seconds_of_ten(nvfp4_sweep));
    speedup.push_back(all_codes / seconds.back());
    state.SetIterationTime(seconds.back() / 10);
  }
  state.counters["weights"] = static_cast<double>(10 * weight.size()) / median(seconds);
  report_ratio(state, "speedup", std::move(speedup));
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
    benchmark::RegisterBenchmark(name.c_str(), body)
        ->UseManualTime()
        ->Iterations(kPairs)
        ->Unit(benchmark::kMicrosecond);
  };
  const Format* const nvfp4 = find_format("nvfp4");
  const Format* const fp8 = find_format("fp8_e4m3");
  const ScaleRule fp8_sweep = {.method = ScaleMethod::kFp8Sweep, .is_static = true};
  add("copy", [](auto& state) { copy(state); });
  add("encode/nvfp4/max", [=](auto& state) { encode(state, nvfp4, with_amax()); });
  add("encode/nvfp4/amax_and_max", [=](auto& state) { encode(state, nvfp4, {}); });
  add("encode/nvfp4/four_over_six",
      [=](auto& state) { encode(state, nvfp4, with_amax(kFourOverSix)); });
  add("encode/nvfp4/fp8_sweep", [=](auto& state) { encode(state, nvfp4, with_amax(fp8_sweep)); });
  add("encode/fp8_e4m3/max", [=](auto& state) { encode(state, fp8, with_amax()); });
  add("encode/fp8_e4m3/amax_and_max", [=](auto& state) { encode(state, fp8, {}); });
  add("encode_128x128/nvfp4/max", [=](auto& state) { encode_small(state, nvfp4); });
  add("encode_128x128/fp8_e4m3/max", [=](auto& state) { encode_small(state, fp8); });
  add("sweep_1_thread/skipping_against_all_codes", [](auto& state) { sweep(state); });
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
