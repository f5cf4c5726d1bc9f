// Ops that write codes themselves against the op and the quantizer one after the other, in the
// shape of a layer of Super: 16384 tokens of 4096 channels. The jobs of a row take turns (ours, two
// passes, a copy), so that a change of clock meets all of them; a ratio is the median of the
// turns'.
//   of_copy     our speed over that of a copy that moves as many bytes as our pass has to,
//   two_of_copy the same of the two passes: what the job has to move counts, not what they do,
//   speedup     the two passes' time over ours,
//   bytes/s     those bytes by our median time.
// An input is larger than twice the second-level cache.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "formats/bf16.h"
#include "kernels/device_turns.h"
#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/rms_norm_encode.h"
#include "tensor/device_bench.h"

namespace vernier::kernels {
namespace {

using formats::Format;

constexpr int64_t kTokens = 16384;
constexpr int64_t kChannels = 4096;

// `bytes`: what the job has to read and write.
void report(benchmark::State& state, int64_t bytes, const Job& ours, const Job& two_passes) {
  constexpr int kTurns = 31;
  const Tensor from(DType::kU8, {bytes / 2}, device());
  Tensor to(DType::kU8, {bytes / 2}, device());
  const Job copy = [&] { device()->copy(to.data(), from.view().data, bytes / 2); };
  const auto seconds = seconds_in_turn({ours, two_passes, copy}, kTurns);
  const double our_median = median(seconds[0]);
  for (auto _ : state) state.SetIterationTime(our_median);
  state.counters["of_copy"] = median_ratio(seconds[2], seconds[0]);
  state.counters["two_of_copy"] = median_ratio(seconds[2], seconds[1]);
  state.counters["speedup"] = median_ratio(seconds[1], seconds[0]);
  state.counters["bytes/s"] = static_cast<double>(bytes) / our_median;
}

// The host's matrix there: one block of random rows, as often as it takes.
AnyMatrix repeated(const AnyMatrix& rows) {
  AnyMatrix matrix(kTokens, kChannels, rows.dtype(), device());
  for (int64_t first = 0; first < kTokens; first += rows.rows()) {
    copy_matrix(rows, matrix.view().row_range(first, rows.rows()));
  }
  return matrix;
}
constexpr int64_t kRepeated = 512;

// Hidden states in FP32, standard normal.
AnyMatrix random_states() {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  AnyMatrix rows(kRepeated, kChannels, DType::kF32, nullptr);
  float* const values = rows.view().as<float>();
  for (int64_t i = 0; i < kRepeated * kChannels; ++i) values[i] = normal(engine);
  return repeated(rows);
}

// Zeros and ones, which a squared ReLU leaves as they are: its pass in place meets the same data in
// every turn.
AnyMatrix random_bits() {
  std::mt19937 engine(1);
  AnyMatrix rows(kRepeated, kChannels, DType::kBF16, nullptr);
  uint16_t* const codes = rows.view().as<uint16_t>();
  for (int64_t i = 0; i < kRepeated * kChannels; ++i) {
    codes[i] = formats::float_to_bf16(static_cast<float>(engine() >> 31));
  }
  return repeated(rows);
}

AnyMatrix new_codes(const Format& format) {
  const DType dtype = format.device_codec->input_dtype.value_or(DType::kBF16);
  return AnyMatrix(kTokens, kChannels, dtype, device());
}

void bench_rms_norm(benchmark::State& state, const Format& format) {
  const AnyMatrix x = random_states();
  const std::vector<float> ones(kChannels, 1.0f);
  const Vector<float> weight(std::span<const float>(ones), device());
  const InputRule rule{&format, 6.0f / format.input_divisor};
  AnyMatrix normed = new_activation(kTokens, kChannels, device());
  AnyMatrix codes = new_codes(format);
  report(
      state, x.size_bytes() + codes.size_bytes(),
      [&] { rms_norm_encode(x, weight, 1e-5f, rule, codes); },
      [&] {
        rms_norm(x, weight, 1e-5f, normed);
        format.device_codec->encode_input(normed, rule.scale, codes);
      });
}

void bench_squared_relu(benchmark::State& state, const Format& format) {
  AnyMatrix x = random_bits();
  const float scale = 1.0f / format.input_divisor;
  AnyMatrix codes = new_codes(format);
  report(
      state, x.size_bytes() + codes.size_bytes(),
      [&] {
        format.device_codec->encode_input(x, {scale, formats::InputMap::kSquaredRelu}, codes);
      },
      [&] {
        squared_relu(x);
        format.device_codec->encode_input(x, scale, codes);
      });
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const Format* format : formats::all_formats()) {
    if (format->input_divisor == 0) continue;
    const std::string name = "/cuda/" + std::string(format->name) + "/16384x4096";
    add_device_bench("rms_norm_encode" + name,
                     [=](auto& state) { bench_rms_norm(state, *format); });
    add_device_bench("squared_relu_encode" + name,
                     [=](auto& state) { bench_squared_relu(state, *format); });
  }
  return true;
}();

}  // namespace
}  // namespace vernier::kernels
