// For benches of device ops: jobs that take turns, so that a change of clock meets all of them.
#pragma once

#include <functional>
#include <vector>

#include "base/median.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels {

// Never freed: the driver may be gone when static objects are destroyed.
inline Device* device() {
  static Device* const device = open_device({}).release();
  return device;
}

using Job = std::function<void()>;

// Seconds of each job in each round; the jobs take turns, and all is queued without a pause.
inline std::vector<std::vector<double>> seconds_in_turn(const std::vector<Job>& jobs,
                                                        int n_rounds) {
  constexpr int kWarmUps = 3;
  for (int round = 0; round < kWarmUps; ++round) {
    for (const Job& job : jobs) job();
  }
  std::vector<cudaEvent_t> events(jobs.size() * static_cast<size_t>(n_rounds) + 1);
  for (cudaEvent_t& event : events) VERNIER_CUDA(cudaEventCreate(&event));
  VERNIER_CUDA(cudaEventRecord(events[0], stream_of(device())));
  for (size_t run = 0; run + 1 < events.size(); ++run) {
    jobs[run % jobs.size()]();
    VERNIER_CUDA(cudaEventRecord(events[run + 1], stream_of(device())));
  }
  device()->synchronize();
  std::vector<std::vector<double>> seconds(jobs.size());
  for (size_t run = 0; run + 1 < events.size(); ++run) {
    float ms = 0;
    VERNIER_CUDA(cudaEventElapsedTime(&ms, events[run], events[run + 1]));
    seconds[run % jobs.size()].push_back(ms / 1e3);
  }
  for (const cudaEvent_t event : events) VERNIER_CUDA(cudaEventDestroy(event));
  return seconds;
}

// The median over rounds.
inline double median_ratio(const std::vector<double>& over, const std::vector<double>& under) {
  std::vector<double> ratios;
  for (size_t turn = 0; turn < over.size(); ++turn) ratios.push_back(over[turn] / under[turn]);
  return median(ratios);
}

}  // namespace vernier::kernels
