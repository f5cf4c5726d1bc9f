// The gradients of the Mamba-2 scan on a device, beside the forward scan of the same inputs. FLOP/s
// count the products of the chunked form with chunks of 64 tokens: of a token of a head, two
// within the chunk and five with states.
#include <benchmark/benchmark.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/ssm_scan_backward.h"
#include "tensor/device_bench.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels {
namespace {

struct Case {
  const char* name;
  SsmShape shape;
  std::vector<int64_t> lengths;
};

const Case kCases[] = {
    {"super_16384",
     {.n_heads = 128, .head_dim = 64, .n_groups = 8, .state_dim = 128, .chunk = 128},
     {16384}},
    {"super_4x4096",
     {.n_heads = 128, .head_dim = 64, .n_groups = 8, .state_dim = 128, .chunk = 128},
     {4096, 4096, 4096, 4096}},
    {"nano_4x4096",
     {.n_heads = 64, .head_dim = 64, .n_groups = 8, .state_dim = 128, .chunk = 128},
     {4096, 4096, 4096, 4096}},
    {"nano_4b_2x2048",
     {.n_heads = 96, .head_dim = 80, .n_groups = 8, .state_dim = 128, .chunk = 256},
     {2048, 2048}},
};

AnyMatrix random_matrix(int64_t rows, int64_t cols, Device* device) {
  std::mt19937 engine(static_cast<uint32_t>(cols));
  std::uniform_real_distribution<float> uniform(-1, 1);
  AnyMatrix matrix = new_activation(rows, cols, nullptr);
  float* values = matrix.view().as<float>();
  for (int64_t i = 0; i < rows * cols; ++i) values[i] = uniform(engine);
  AnyMatrix there = new_activation(rows, cols, device);
  if (there.dtype() == DType::kF32) {
    copy_matrix(matrix, there);
    return there;
  }
  AnyMatrix codes(rows, cols, DType::kBF16, nullptr);
  for (int64_t i = 0; i < rows * cols; ++i) {
    codes.view().as<uint16_t>()[i] =
        static_cast<uint16_t>(__builtin_bit_cast(uint32_t, values[i]) >> 16);
  }
  copy_matrix(codes, there);
  return there;
}

// The mean of several runs after one to warm up.
double seconds_of(const std::function<void()>& job, Device* device) {
  constexpr int kRuns = 5;
  job();
  cudaEvent_t begin, end;
  VERNIER_CUDA(cudaEventCreate(&begin));
  VERNIER_CUDA(cudaEventCreate(&end));
  VERNIER_CUDA(cudaEventRecord(begin, stream_of(device)));
  for (int run = 0; run < kRuns; ++run) job();
  VERNIER_CUDA(cudaEventRecord(end, stream_of(device)));
  device->synchronize();
  float ms = 0;
  VERNIER_CUDA(cudaEventElapsedTime(&ms, begin, end));
  VERNIER_CUDA(cudaEventDestroy(begin));
  VERNIER_CUDA(cudaEventDestroy(end));
  return ms / 1e3 / kRuns;
}

void bench(benchmark::State& state, const Case& bench_case, DType dtype) {
  const auto device = open_device({.compute_dtype = dtype});
  const SsmShape& shape = bench_case.shape;
  const int64_t n_channels = shape.n_heads * shape.head_dim;
  const int64_t n_bc = shape.n_groups * shape.state_dim;
  std::vector<SequenceSpan> spans;
  int64_t n_tokens = 0;
  for (const int64_t n : bench_case.lengths) {
    spans.push_back({n_tokens, n});
    n_tokens += n;
  }
  const AnyMatrix xbc = random_matrix(n_tokens, n_channels + 2 * n_bc, device.get());
  const AnyMatrix g_y = random_matrix(n_tokens, n_channels, device.get());
  Matrix host_dt(n_tokens, shape.n_heads);
  for (float& value : host_dt.values()) value = 0.05f;
  const AnyMatrix dt = to_device(host_dt, device.get());
  const std::vector<float> ones(shape.n_heads, -1.0f);
  Vector<float> a(std::span<const float>(ones), device.get());
  Vector<float> g_a(std::span<const float>(ones), device.get());
  Vector<float> g_d(std::span<const float>(ones), device.get());
  AnyMatrix g_xbc = new_activation(n_tokens, n_channels + 2 * n_bc, device.get());
  AnyMatrix g_dt(n_tokens, shape.n_heads, DType::kF32, device.get());
  const auto b_of = [&](auto all) { return all.col_range(n_channels, n_bc); };
  const auto c_of = [&](auto all) { return all.col_range(n_channels + n_bc, n_bc); };
  const SsmInputs inputs{.x = xbc.view().col_range(0, n_channels),
                         .b = b_of(xbc.view()),
                         .c = c_of(xbc.view()),
                         .dt = dt,
                         .a = a,
                         .d = a};
  const SsmGradients gradients{.x = g_xbc.view().col_range(0, n_channels),
                               .b = b_of(g_xbc.view()),
                               .c = c_of(g_xbc.view()),
                               .dt = g_dt,
                               .a = g_a,
                               .d = g_d};
  AnyMatrix y = new_activation(n_tokens, n_channels, device.get());
  AnyMatrix states = new_zeros(std::ssize(spans) * n_channels, shape.state_dim, device.get());
  std::vector<ScanSequence> sequences;
  for (const auto& [first_row, n_rows] : spans) {
    const int64_t first_state = std::ssize(sequences) * n_channels;
    sequences.push_back({first_row, n_rows, states.view().row_range(first_state, n_channels)});
  }
  const double forward =
      seconds_of([&] { ssm_scan_chunked(shape, inputs, sequences, y); }, device.get());
  const double backward =
      seconds_of([&] { ssm_scan_backward(shape, inputs, spans, g_y, gradients); }, device.get());
  constexpr double kChunk = 64;
  const double flops = static_cast<double>(n_tokens * n_channels) *
                       (5 * 2 * static_cast<double>(shape.state_dim) + 2 * 2 * kChunk);
  for (auto _ : state) state.SetIterationTime(backward);
  state.counters["flops"] = flops / backward;
  state.counters["forward_us"] = forward * 1e6;
}

[[maybe_unused]] const bool kRegistered = [] {
  for (const Case& bench_case : kCases) {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      const char* type = dtype == DType::kBF16 ? "bf16" : "f32";
      add_device_bench(
          std::string("ssm_scan_backward/cuda/") + type + "/" + bench_case.name,
          [&bench_case, dtype](benchmark::State& state) { bench(state, bench_case, dtype); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace vernier::kernels
