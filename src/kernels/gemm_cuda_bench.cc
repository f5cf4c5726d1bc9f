// Matrix products on a device. Data is random, since a product of constants draws less power and
// runs faster. What is compared runs in turn (A, B, A, B), so that a change of clock meets both,
// and a ratio is the median of the turns' ratios:
//   of_best   our plan's speed over that of the best algorithm that trying all of them found
//   of_fp8    an FP8 linear's speed, its inputs coded first, over that of its product alone
//   of_cublas our kernel's speed over the speed of cuBLASLt with the same weight in BF16
// FLOP/s and bytes/s (of the packed weights) are those of our median time.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "formats/bf16.h"
#include "kernels/device_turns.h"
#include "kernels/gemm_cuda.h"
#include "kernels/gemm_plans_cuda.h"
#include "kernels/gemm_search_cuda.h"
#include "kernels/grouped_linear.h"
#include "kernels/linear.h"
#include "tensor/device_bench.h"

namespace vernier::kernels::cuda {
namespace {

using formats::Format;
using formats::PackedTensor;
using Clock = std::chrono::steady_clock;

// A million of normal values, in BF16, and where the next matrix begins among them.
const AnyMatrix& random_values() {
  static const AnyMatrix* const values = [] {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    AnyMatrix host(1, 1 << 20, DType::kBF16, nullptr);
    uint16_t* codes = host.view().as<uint16_t>();
    for (int64_t index = 0; index < host.cols(); ++index) {
      codes[index] = formats::float_to_bf16(normal(engine));
    }
    auto* const there = new AnyMatrix(1, host.cols(), DType::kBF16, device());
    copy_matrix(host, *there);
    return there;
  }();
  return *values;
}

// Standard normal values in BF16, repeated every million, from another place in every matrix.
AnyMatrix random_bf16(int64_t rows, int64_t cols) {
  static int64_t n_made = 0;
  const AnyMatrix& values = random_values();
  AnyMatrix matrix(rows, cols, DType::kBF16, device());
  AnyMatrixView rest(matrix.view().data, 1, rows * cols, rows * cols, DType::kBF16, device());
  int64_t from = ++n_made * 8 * 1009 % values.cols();
  while (rest.cols > 0) {
    const int64_t n = std::min(rest.cols, values.cols() - from);
    copy_matrix(values.view().col_range(from, n), rest.col_range(0, n));
    rest = rest.col_range(n, rest.cols - n);
    from = 0;
  }
  return matrix;
}

PackedTensor random_weight(const Format& format, int64_t n, int64_t k) {
  const AnyMatrix values = random_bf16(n, k);
  const TensorView view{
      DType::kBF16, {n, k}, static_cast<const std::byte*>(values.view().data), device()};
  return formats::encode_weight(format, view, {});
}

// Normal values stay below 6.
InputRule rule_of(const Format& format) { return {&format, 6.0f / format.input_divisor}; }

// BF16 inputs as FP8 codes.
AnyMatrix coded(ConstAnyMatrixView x) {
  const Format& fp8 = *formats::find_format("fp8_e4m3");
  AnyMatrix codes(x.rows, x.cols, DType::kF8E4M3, device());
  fp8.device_codec->encode_input(x, rule_of(fp8).scale, codes);
  return codes;
}

struct Work {
  double flops = 0;
  double bytes = 0;
};

// `ratio`: the name of ours' speed over the rival's; there may be no rival.
void report(benchmark::State& state, const Work& work, const Job& ours, const char* ratio = nullptr,
            const Job& rival = nullptr) {
  constexpr int kRounds = 41;
  std::vector<Job> jobs = {ours};
  if (rival) jobs.push_back(rival);
  const std::vector<std::vector<double>> seconds = seconds_in_turn(jobs, kRounds);
  const double our_median = median(seconds[0]);
  for (auto _ : state) state.SetIterationTime(our_median);
  if (work.flops > 0) state.counters["FLOP/s"] = work.flops / our_median;
  if (work.bytes > 0) state.counters["bytes/s"] = work.bytes / our_median;
  if (!rival) return;
  state.counters[ratio] = median_ratio(seconds[1], seconds[0]);
}

// --- The best algorithm there is.

// Settings of one family's algorithms as digits of a number: each number is a combination.
class Combinations {
 public:
  explicit Combinations(const Algorithm& first) : first_(first) {
    for (Setting& setting : settings_of(first)) {
      if (setting.values.empty()) continue;
      n_ *= static_cast<double>(setting.values.size());
      settings_.push_back(std::move(setting));
    }
  }
  double size() const { return n_; }
  Algorithm random(std::mt19937& engine) const {
    Algorithm algorithm = first_;
    for (const Setting& setting : settings_) take(algorithm, setting, engine());
    return algorithm;
  }
  Algorithm at(uint64_t index) const {
    Algorithm algorithm = first_;
    for (const Setting& setting : settings_) {
      take(algorithm, setting, index);
      index /= setting.values.size();
    }
    return algorithm;
  }

 private:
  // A value that the library refuses leaves the setting as it was.
  static void take(Algorithm& algorithm, const Setting& setting, uint64_t digit) {
    const uint32_t value = setting.values[digit % setting.values.size()];
    if (const auto other = variant(algorithm, setting, value)) algorithm = *other;
  }

  Algorithm first_;
  std::vector<Setting> settings_;
  double n_ = 1;
};

bool same(const Algorithm& a, const Algorithm& b) {
  return std::equal(std::begin(a.data), std::end(a.data), std::begin(b.data));
}
bool before(const Algorithm& a, const Algorithm& b) {
  return std::lexicographical_compare(std::begin(a.data), std::end(a.data), std::begin(b.data),
                                      std::end(b.data));
}

// Every accepted combination of every family, or as many random ones as the time allows.
std::vector<Algorithm> accepted_algorithms(const LtProduct& product, double seconds) {
  std::vector<Algorithm> found = product.heuristics(64);
  std::mt19937 engine(1);
  const std::vector<int> ids = product.algorithm_ids();
  for (const int id : ids) {
    const std::optional<Algorithm> first = product.algorithm(id);
    if (!first) continue;
    const Combinations all(*first);
    const auto end =
        Clock::now() + std::chrono::duration<double>(seconds / static_cast<double>(ids.size()));
    const bool in_order = all.size() < 1e5;
    for (uint64_t index = 0; Clock::now() < end; ++index) {
      if (in_order && index >= static_cast<uint64_t>(all.size())) break;
      const Algorithm algorithm = in_order ? all.at(index) : all.random(engine);
      if (product.accepts(algorithm)) found.push_back(algorithm);
    }
  }
  std::ranges::sort(found, before);
  found.erase(std::unique(found.begin(), found.end(), same), found.end());
  std::ranges::shuffle(found, engine);
  return found;
}

// Tried in parts until the time is over; the best of all parts is then improved setting by setting.
Algorithm best_algorithm(const LtProduct& product, double flops) {
  constexpr double kCheckSeconds = 8;
  constexpr double kTrySeconds = 15;
  constexpr size_t kPart = 40;
  const std::vector<Algorithm> all = accepted_algorithms(product, kCheckSeconds);
  std::vector<Algorithm> winners = product.heuristics(64);
  const auto end = Clock::now() + std::chrono::duration<double>(kTrySeconds);
  for (size_t first = 0; first < all.size() && Clock::now() < end; first += kPart) {
    const auto part = all.begin() + static_cast<int64_t>(first);
    winners.push_back(
        search(product, {part, part + static_cast<int64_t>(std::min(kPart, all.size() - first))},
               flops, Effort::kCareful));
  }
  return search(product, winners, flops, Effort::kThorough);
}

// --- Products alone.

struct Shape {
  int64_t m, n, k;
  double flops() const { return 2.0 * static_cast<double>(m) * static_cast<double>(n * k); }
  std::string text() const {
    return std::to_string(m) + "x" + std::to_string(n) + "x" + std::to_string(k);
  }
};

void bench_product(benchmark::State& state, const Shape& shape, DType dtype, bool fast) {
  AnyMatrix x = random_bf16(shape.m, shape.k);
  AnyMatrix weight = random_bf16(shape.n, shape.k);
  if (dtype == DType::kF8E4M3) {
    x = coded(x);
    weight = coded(weight);
  }
  AnyMatrix y(shape.m, shape.n, DType::kBF16, device());
  const Product product{.x = x, .weight = weight, .y = y, .fast_accumulation = fast};
  const LtProduct described(device()->state<LtLibrary>(), product);
  multiply(product);  // searches or loads the plan
  const Algorithm best = best_algorithm(described, shape.flops());
  report(
      state, {.flops = shape.flops()}, [&] { multiply(product); }, "of_best",
      [&] { VERNIER_CUBLAS(described.queue(best)); });
}

// --- Linear layers.

void bench_fp8_linear(benchmark::State& state, const Shape& shape) {
  const Format& fp8 = *formats::find_format("fp8_e4m3");
  const AnyMatrix x = random_bf16(shape.m, shape.k);
  const AnyMatrix codes = coded(x);
  const PackedTensor weight = random_weight(fp8, shape.n, shape.k);
  AnyMatrix y(shape.m, shape.n, DType::kBF16, device());
  const TensorView& weight_codes = weight.plane(formats::PlaneRole::kCodes).view();
  const Product alone{
      .x = codes,
      .weight = {weight_codes.data, shape.n, shape.k, shape.k, DType::kF8E4M3, device()},
      .y = y};
  report(
      state, {.flops = shape.flops()},
      [&] { linear(ConstAnyMatrixView(x), weight.view(), rule_of(fp8), y); }, "of_fp8",
      [&] { multiply(alone); });
}

// Weights that are used in turn, together several times the second-level cache.
template <class T>
struct Rotation {
  std::vector<T> items;
  size_t next = 0;

  template <class Make>
  Rotation(int64_t bytes_each, Make make) {
    constexpr int64_t kBytes = 400 << 20;
    for (int64_t n = std::max<int64_t>(2, kBytes / bytes_each); n > 0; --n) items.push_back(make());
  }
  T& take() { return items[next++ % items.size()]; }
};

void bench_linear(benchmark::State& state, const Format& format, const Shape& shape,
                  bool has_rule) {
  const AnyMatrix x = random_bf16(shape.m, shape.k);
  AnyMatrix y(shape.m, shape.n, DType::kBF16, device());
  const int64_t packed_bytes = formats::packed_bytes(format, shape.n, shape.k);
  Rotation<PackedTensor> weights(packed_bytes,
                                 [&] { return random_weight(format, shape.n, shape.k); });
  Rotation<AnyMatrix> plain(2 * shape.n * shape.k, [&] { return random_bf16(shape.n, shape.k); });
  const InputRule rule = has_rule ? rule_of(format) : InputRule{};
  report(
      state, {.flops = shape.flops(), .bytes = static_cast<double>(packed_bytes)},
      [&] { linear(ConstAnyMatrixView(x), weights.take().view(), rule, y); }, "of_cublas",
      [&] { multiply({.x = x, .weight = plain.take(), .y = y}); });
}

// One product for each of the experts, `m` tokens each.
void bench_experts(benchmark::State& state, const Format& format, const Shape& shape,
                   int64_t n_experts) {
  const AnyMatrix x = random_bf16(shape.m * n_experts, shape.k);
  AnyMatrix y(shape.m * n_experts, shape.n, DType::kBF16, device());
  const int64_t packed_bytes = formats::packed_bytes(format, shape.n, shape.k);
  Rotation<PackedTensor> weights(packed_bytes,
                                 [&] { return random_weight(format, shape.n, shape.k); });
  std::vector<int64_t> begin = {0};
  for (int64_t expert = 0; expert < n_experts; ++expert) begin.push_back(begin.back() + shape.m);
  const auto n = static_cast<double>(n_experts);
  report(state, {.flops = n * shape.flops(), .bytes = n * static_cast<double>(packed_bytes)}, [&] {
    std::vector<GroupWeight> groups;
    for (int64_t expert = 0; expert < n_experts; ++expert) {
      groups.push_back({weights.take().view(), {}});
    }
    grouped_linear(ConstAnyMatrixView(x), begin, groups, y);
  });
}

void add_product(const char* types, const Shape& shape, DType dtype, bool fast) {
  add_device_bench("product/cuda/" + std::string(types) + "/" + shape.text(),
                   [=](auto& state) { bench_product(state, shape, dtype, fast); });
}

void add_products() {
  constexpr Shape kSquare{8192, 8192, 8192};
  constexpr Shape kExpert{768, 1856, 2688};
  add_product("fp8_full_accumulation", kSquare, DType::kF8E4M3, false);
  add_device_bench("linear/cuda/fp8_e4m3/coding_inputs/" + kSquare.text(),
                   [=](auto& state) { bench_fp8_linear(state, kSquare); });
  add_product("fp8_fast_accumulation", kSquare, DType::kF8E4M3, true);
  add_product("bf16", kSquare, DType::kBF16, false);
  add_product("bf16", kExpert, DType::kBF16, false);
  add_product("fp8_full_accumulation", kExpert, DType::kF8E4M3, false);
}

void add_linears() {
  for (const Format* format : formats::all_formats()) {
    const std::string name(format->name);
    for (const int64_t m : {1, 8, 16, 32, 64, 4096}) {
      const Shape shape{m, 8192, 8192};
      add_device_bench("linear/cuda/" + name + "/" + shape.text(),
                       [=](auto& state) { bench_linear(state, *format, shape, false); });
    }
    const Shape shape{1, 8192, 8192};
    if (format->input_divisor > 0) {
      add_device_bench("linear/cuda/" + name + "/rule/" + shape.text(),
                       [=](auto& state) { bench_linear(state, *format, shape, true); });
    }
    for (const int64_t m : {1, 24, 768}) {
      const Shape expert{m, 1856, 2688};
      add_device_bench("grouped_linear/cuda/" + name + "/22x" + expert.text(),
                       [=](auto& state) { bench_experts(state, *format, expert, 22); });
    }
  }
}

[[maybe_unused]] const bool kRegistered = [] {
  add_products();
  add_linears();
  return true;
}();

}  // namespace
}  // namespace vernier::kernels::cuda
