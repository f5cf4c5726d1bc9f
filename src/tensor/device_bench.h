// For benches of devices only: registers one that times itself and is an error without a device.
#pragma once

#include <benchmark/benchmark.h>

#include <string>

#include "tensor/device.h"

namespace vernier {

// body(state) runs once and sets the iteration's time.
template <class Body>
void add_device_bench(const std::string& name, const Body& body) {
  const auto guarded = [body](benchmark::State& state) {
    if (n_devices() == 0) {
      state.SkipWithError("no CUDA device");
      return;
    }
    body(state);
  };
  benchmark::RegisterBenchmark(name.c_str(), guarded)
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace vernier
