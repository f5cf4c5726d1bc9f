// What devices of one machine reach when they talk: sums and exchanges of rows, as bus bandwidth (a
// sum moves 2 (n - 1) / n of its bytes over each device's link, an exchange (n - 1) / n of what a
// rank has), so that figures compare with those of NCCL's own tests.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <stdlib.h>

#include <chrono>
#include <vector>

#include "comm/nccl_communicator.h"
#include "comm/thread_ranks.h"
#include "tensor/device_bench.h"

namespace vernier::comm {
namespace {

constexpr int64_t kCols = 4096;
constexpr int kRepeats = 20;

// Seconds of one call of op(group, rows) among all devices.
template <class Op>
double seconds_of(int64_t rows, DType dtype, const Op& op) {
  double seconds = 0;
  // Devices of one process would read each other's memory directly, which that of a pool forbids.
  setenv("NCCL_P2P_DIRECT_DISABLE", "1", 1);
  run_thread_ranks(n_devices(), [&](const Communicator& world) {
    const auto device = open_device({.index = world.rank()});
    const auto group = with_device(world.split(0), device.get());
    AnyMatrix values(rows, kCols, dtype, device.get());
    AnyMatrix others(rows, kCols, dtype, device.get());
    fill_zero(values.view().data, device.get(), values.size_bytes());
    for (int warm_up = 0; warm_up < 3; ++warm_up) op(*group, values, others);
    device->synchronize();
    world.barrier();
    const auto start = std::chrono::steady_clock::now();
    for (int repeat = 0; repeat < kRepeats; ++repeat) op(*group, values, others);
    device->synchronize();
    world.barrier();
    if (world.rank() == 0) {
      seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
  });
  return seconds / kRepeats;
}

void report(benchmark::State& state, double seconds, double bus_bytes) {
  for (auto _ : state) state.SetIterationTime(seconds);
  state.counters["bus_GB/s"] = bus_bytes / seconds / 1e9;
}

void sum(benchmark::State& state, int64_t n_bytes) {
  const int64_t rows = n_bytes / (kCols * 4);
  const double seconds = seconds_of(
      rows, DType::kF32,
      [](const Communicator& group, AnyMatrix& values, AnyMatrix&) { group.sum(values.view()); });
  const double n = n_devices();
  report(state, seconds, 2 * (n - 1) / n * static_cast<double>(n_bytes));
}

// Every rank sends each rank, itself too, as many rows.
void exchange(benchmark::State& state, int64_t n_bytes) {
  const int64_t n = n_devices();
  const int64_t rows = n_bytes / (kCols * 2) / n * n;
  const std::vector<int64_t> counts(static_cast<size_t>(n), rows / n);
  const double seconds = seconds_of(
      rows, DType::kBF16, [&](const Communicator& group, AnyMatrix& values, AnyMatrix& others) {
        group.exchange_rows(values.view(), counts, others.view(), counts);
      });
  report(state, seconds,
         static_cast<double>(n - 1) / static_cast<double>(n) * static_cast<double>(n_bytes));
}

const bool are_registered = [] {
  if (n_devices() < 2) return false;
  for (const int64_t megabytes : {1, 16, 256, 1024}) {
    const int64_t n_bytes = megabytes << 20;
    add_device_bench(fmt::format("sum/f32/{}_MiB", megabytes),
                     [n_bytes](benchmark::State& state) { sum(state, n_bytes); });
    add_device_bench(fmt::format("exchange/bf16/{}_MiB", megabytes),
                     [n_bytes](benchmark::State& state) { exchange(state, n_bytes); });
  }
  return true;
}();

}  // namespace
}  // namespace vernier::comm
