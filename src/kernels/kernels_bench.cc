// Speed of the kernels on the host. A linear layer is compared with OpenBLAS alone: all cores on a
// weight that is FP32 already. Both run in turn, each after an untimed run of its own kind, since
// the other's threads still spin for a while; `of_openblas` is the ratio of the medians.
#include <benchmark/benchmark.h>
#include <cblas.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "base/median.h"
#include "kernels/attention.h"
#include "kernels/causal_conv.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/log_softmax.h"
#include "kernels/rms_norm.h"
#include "kernels/router.h"
#include "kernels/ssm_scan.h"

namespace vernier::kernels {
namespace {

using benchmark::Counter;

Matrix random_matrix(int64_t rows, int64_t cols) {
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  Matrix matrix(rows, cols);
  for (float& value : matrix.values()) value = uniform(engine);
  return matrix;
}

formats::PackedTensor packed_weight(const formats::Format& format, ConstMatrixView values) {
  Tensor source(DType::kF32, {values.rows, values.cols});
  std::copy_n(values.data, values.rows * values.cols, source.as<float>().data());
  return format.encode(source.view(), {});
}

template <class Work>
double seconds(Work work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void per_second(benchmark::State& state, const char* what, double each) {
  state.counters[what] = Counter(each, Counter::kIsIterationInvariantRate);
}

void bench_linear(benchmark::State& state, const formats::Format* format) {
  const int64_t n_tokens = state.range(0);
  const int64_t n = state.range(1);
  const int64_t k = state.range(2);
  const Matrix x = random_matrix(n_tokens, k);
  const Matrix weight = random_matrix(n, k);
  const formats::PackedTensor packed = packed_weight(*format, weight);
  Matrix y(n_tokens, n);
  const auto ours = [&] { linear(x, packed.view(), {}, y); };
  const auto openblas = [&] {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<int>(n_tokens),
                static_cast<int>(n), static_cast<int>(k), 1, x.values().data(), static_cast<int>(k),
                weight.values().data(), static_cast<int>(k), 0, y.values().data(),
                static_cast<int>(n));
  };
  std::vector<double> our_times;
  std::vector<double> openblas_times;
  for (auto _ : state) {
    openblas_set_num_threads(omp_get_max_threads());
    openblas();
    openblas_times.push_back(seconds(openblas));
    configure_host_threads();
    ours();
    our_times.push_back(seconds(ours));
    state.SetIterationTime(our_times.back());
  }
  state.counters["of_openblas"] = median(openblas_times) / median(our_times);
  per_second(state, "FLOP", 2.0 * static_cast<double>(n_tokens * n * k));
  state.SetBytesProcessed(state.iterations() * formats::packed_bytes(*format, n, k));
}

void bench_attention(benchmark::State& state) {
  configure_host_threads();
  const AttentionShape shape{.n_heads = 4, .n_kv_heads = 2, .head_dim = 64};
  const int64_t n_tokens = state.range(0);
  const int64_t n_keys = state.range(1);
  const Matrix q = random_matrix(n_tokens, 256);
  const Matrix k = random_matrix(n_keys, 128);
  const Matrix v = random_matrix(n_keys, 128);
  Matrix y(n_tokens, 256);
  const AttentionSequence sequence{0, n_tokens, n_keys - n_tokens, k, v};
  for (auto _ : state) causal_attention(shape, q, {&sequence, 1}, y);
  const double n_scores = static_cast<double>(n_tokens) *
                          (static_cast<double>(n_keys) - static_cast<double>(n_tokens - 1) / 2);
  per_second(state, "FLOP", n_scores * 4 * 256);
  state.SetBytesProcessed(state.iterations() * n_keys * 128 * 2 * 4);
}

template <auto kScan>
void bench_scan(benchmark::State& state) {
  configure_host_threads();
  const SsmShape shape{
      .n_heads = 8, .head_dim = 64, .n_groups = 4, .state_dim = 64, .chunk = state.range(1)};
  const int64_t n_tokens = state.range(0);
  const Matrix x = random_matrix(n_tokens, 512);
  const Matrix b = random_matrix(n_tokens, 256);
  Matrix dt = random_matrix(n_tokens, 8);
  for (float& value : dt.values()) value = std::abs(value) * 0.1f;
  const std::vector<float> a(8, -1.0f);
  Matrix ssm_state(512, 64);
  Matrix y(n_tokens, 512);
  const ScanSequence sequence{0, n_tokens, ssm_state};
  for (auto _ : state) {
    kScan(shape, {.x = x, .b = b, .c = b, .dt = dt, .a = a, .d = a}, {&sequence, 1}, y);
  }
  per_second(state, "tokens", static_cast<double>(n_tokens));
}

void bench_conv(benchmark::State& state) {
  const int64_t n_tokens = state.range(0);
  const Matrix x = random_matrix(n_tokens, 1024);
  const Matrix weight = random_matrix(1024, 4);
  Matrix history(3, 1024);
  Matrix y(n_tokens, 1024);
  const ConvSequence sequence{0, n_tokens, history};
  for (auto _ : state) causal_conv_silu(x, weight, {}, {&sequence, 1}, y);
  state.SetBytesProcessed(state.iterations() * n_tokens * 1024 * 8);
}

void bench_rms_norm(benchmark::State& state) {
  const int64_t n_tokens = state.range(0);
  const Matrix x = random_matrix(n_tokens, 256);
  const std::vector<float> weight(256, 1.0f);
  Matrix y(n_tokens, 256);
  for (auto _ : state) rms_norm(x, weight, 1e-5f, y);
  state.SetBytesProcessed(state.iterations() * n_tokens * 256 * 8);
}

void bench_gated_group_norm(benchmark::State& state) {
  const int64_t n_tokens = state.range(0);
  const Matrix x = random_matrix(n_tokens, 512);
  const std::vector<float> weight(512, 1.0f);
  Matrix y(n_tokens, 512);
  for (auto _ : state) gated_group_norm(x, x, weight, 4, 1e-5f, y);
  state.SetBytesProcessed(state.iterations() * n_tokens * 512 * 12);
}

void bench_router(benchmark::State& state) {
  const RouterShape shape{.n_experts = state.range(0),
                          .top_k = state.range(1),
                          .n_groups = 1,
                          .top_groups = 1,
                          .normalize = true,
                          .scale = 1};
  const Matrix logits = random_matrix(4096, shape.n_experts);
  const std::vector<float> bias(shape.n_experts);
  for (auto _ : state) benchmark::DoNotOptimize(route(shape, logits, bias));
  per_second(state, "tokens", 4096);
}

void bench_kl_divergence(benchmark::State& state) {
  const Matrix logits = random_matrix(2, state.range(0));
  for (auto _ : state) {
    benchmark::DoNotOptimize(kl_divergence(logits.view().row(0), logits.view().row(1)));
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

void register_linear() {
  for (const formats::Format* format : formats::all_formats()) {
    const std::string name = "linear/" + std::string(format->name);
    benchmark::RegisterBenchmark(name.c_str(),
                                 [format](benchmark::State& state) { bench_linear(state, format); })
        ->ArgNames({"tokens", "n", "k"})
        ->ArgsProduct({{1, 512}, {1024, 4096}, {1024, 4096}})
        ->Args({4, 4096, 4096})
        ->Args({8, 4096, 4096})
        ->Args({16, 4096, 4096})
        ->Args({32, 4096, 4096})
        ->Args({4096, 128, 128})
        ->Args({64, 4096, 4096})
        ->Args({4096, 1544, 256})
        ->UseManualTime();
  }
}

const bool kRegistered = (register_linear(), true);

BENCHMARK(bench_attention)
    ->Name("causal_attention")
    ->ArgNames({"tokens", "keys"})
    ->Args({512, 512})
    ->Args({512, 8192})
    ->Args({1, 512})
    ->Args({1, 131072})
    ->UseRealTime();
BENCHMARK(bench_scan<ssm_scan_chunked>)
    ->Name("ssm_scan_chunked")
    ->ArgNames({"tokens", "chunk"})
    ->ArgsProduct({{512, 4096}, {64, 128, 256}})
    ->UseRealTime();
BENCHMARK(bench_scan<ssm_scan_recurrent>)
    ->Name("ssm_scan_recurrent")
    ->ArgNames({"tokens", "chunk"})
    ->Args({1, 128})
    ->Args({512, 128})
    ->UseRealTime();
BENCHMARK(bench_conv)->Name("causal_conv_silu")->Arg(1)->Arg(4096)->UseRealTime();
BENCHMARK(bench_rms_norm)->Name("rms_norm")->Arg(1)->Arg(4096)->UseRealTime();
BENCHMARK(bench_gated_group_norm)->Name("gated_group_norm")->Arg(1)->Arg(4096)->UseRealTime();
BENCHMARK(bench_router)->Name("route")->Args({32, 4})->Args({512, 22})->UseRealTime();
BENCHMARK(bench_kl_divergence)->Name("kl_divergence")->Arg(4096)->Arg(131072);

}  // namespace
}  // namespace vernier::kernels
