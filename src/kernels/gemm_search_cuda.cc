#include "kernels/gemm_search_cuda.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <type_traits>

#include "base/median.h"

namespace vernier::kernels::cuda {
namespace {

// Candidates within this of the fastest, at most `n_close`, are timed again with care: two rounds
// order the rest well enough.
constexpr double kClose = 1.08;
constexpr int kRoughRounds = 2;

struct Rounds {
  size_t n_close;
  int n_careful;
  // What one timing should last at least, at the speed below, so that events resolve it.
  double timed_seconds;
};
constexpr Rounds kQuickRounds{.n_close = 3, .n_careful = 5, .timed_seconds = 100e-6};
constexpr Rounds kCarefulRounds{.n_close = 5, .n_careful = 7, .timed_seconds = 200e-6};
constexpr double kFlopsPerSecond = 5e14;
constexpr int kMostRepeats = 20;

// A change of one setting must gain this much, beyond the noise of the careful timing.
constexpr double kGain = 0.997;
constexpr int kMostSteps = 4;

class Event {
 public:
  Event() {
    cudaEvent_t event;
    VERNIER_CUDA(cudaEventCreate(&event));
    event_.reset(event);
  }
  cudaEvent_t get() const { return event_.get(); }

 private:
  struct Destroy {
    void operator()(cudaEvent_t event) const { cudaEventDestroy(event); }
  };
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, Destroy> event_;
};

struct Timing {
  Event start;
  Event stop;

  void run(const LtProduct& product, const Algorithm& algorithm, int n_repeats) const {
    VERNIER_CUDA(cudaEventRecord(start.get(), product.stream()));
    for (int repeat = 0; repeat < n_repeats; ++repeat) VERNIER_CUBLAS(product.queue(algorithm));
    VERNIER_CUDA(cudaEventRecord(stop.get(), product.stream()));
  }
  double ms() const {
    float elapsed = 0;
    VERNIER_CUDA(cudaEventElapsedTime(&elapsed, start.get(), stop.get()));
    return elapsed;
  }
};

int repeats_for(double seconds, double n_flops) {
  return std::clamp(static_cast<int>(std::ceil(seconds * kFlopsPerSecond / n_flops)), 1,
                    kMostRepeats);
}

// The fastest by a rough timing of all and a careful one of the best of them.
Algorithm fastest(const LtProduct& product, const std::vector<Algorithm>& candidates,
                  const Rounds& rounds, int n_repeats) {
  if (candidates.size() == 1) return candidates[0];
  const std::vector<double> rough = measure(product, candidates, kRoughRounds, n_repeats);
  std::vector<size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, {}, [&](size_t index) { return rough[index]; });
  std::vector<Algorithm> close;
  for (const size_t index : order) {
    if (close.size() < rounds.n_close && rough[index] <= rough[order[0]] * kClose) {
      close.push_back(candidates[index]);
    }
  }
  if (close.size() == 1) return close[0];
  const std::vector<double> careful = measure(product, close, rounds.n_careful, n_repeats);
  return close[std::ranges::min_element(careful) - careful.begin()];
}

// A setting's possible values, as this algorithm's family declares them.
std::vector<uint32_t> listed(const Algorithm& algorithm,
                             cublasLtMatmulAlgoCapAttributes_t capability) {
  size_t n_bytes = 0;
  if (cublasLtMatmulAlgoCapGetAttribute(&algorithm, capability, nullptr, 0, &n_bytes) !=
      CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  std::vector<uint32_t> values(n_bytes / sizeof(uint32_t));
  if (values.empty()) return {};
  VERNIER_CUBLAS(cublasLtMatmulAlgoCapGetAttribute(&algorithm, capability, values.data(),
                                                   values.size() * sizeof(uint32_t), &n_bytes));
  return values;
}

std::vector<uint32_t> up_to(uint32_t n_values) {
  std::vector<uint32_t> values(n_values);
  std::iota(values.begin(), values.end(), 0u);
  return values;
}

uint32_t n_custom_options(const Algorithm& algorithm) {
  const std::vector<uint32_t> most = listed(algorithm, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX);
  return most.empty() ? 1 : most[0] + 1;
}

bool set(Algorithm& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, uint32_t value,
         size_t n_bytes) {
  return cublasLtMatmulAlgoConfigSetAttribute(&algorithm, attribute, &value, n_bytes) ==
         CUBLAS_STATUS_SUCCESS;
}

}  // namespace

std::vector<double> measure(const LtProduct& product, const std::vector<Algorithm>& algorithms,
                            int n_rounds, int n_repeats) {
  std::vector<double> medians(algorithms.size(), std::numeric_limits<double>::infinity());
  std::vector<size_t> running;
  // An untimed run: the first loads the kernel's code.
  for (size_t index = 0; index < algorithms.size(); ++index) {
    if (product.queue(algorithms[index]) == CUBLAS_STATUS_SUCCESS) running.push_back(index);
  }
  // All is queued before the first wait, so that the device never idles inside a timing.
  std::vector<Timing> timings(running.size() * static_cast<size_t>(n_rounds));
  for (size_t run = 0; run < timings.size(); ++run) {
    timings[run].run(product, algorithms[running[run % running.size()]], n_repeats);
  }
  VERNIER_CUDA(cudaStreamSynchronize(product.stream()));
  for (size_t position = 0; position < running.size(); ++position) {
    std::vector<double> times;
    for (size_t run = position; run < timings.size(); run += running.size()) {
      times.push_back(timings[run].ms() / n_repeats);
    }
    medians[running[position]] = median(times);
  }
  return medians;
}

std::vector<Setting> settings_of(const Algorithm& algorithm) {
  return {
      {CUBLASLT_ALGO_CONFIG_TILE_ID, sizeof(uint32_t),
       listed(algorithm, CUBLASLT_ALGO_CAP_TILE_IDS)},
      {CUBLASLT_ALGO_CONFIG_STAGES_ID, sizeof(uint32_t),
       listed(algorithm, CUBLASLT_ALGO_CAP_STAGES_IDS)},
      {CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, sizeof(uint16_t), up_to(CUBLASLT_CLUSTER_SHAPE_END)},
      {CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, sizeof(uint16_t),
       up_to(CUBLASLT_MATMUL_INNER_SHAPE_END)},
      {CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, sizeof(uint32_t), {0, 1}},
      {CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, sizeof(uint32_t), up_to(n_custom_options(algorithm))},
      {CUBLASLT_ALGO_CONFIG_SPLITK_NUM, sizeof(uint32_t), {1, 2, 3, 4, 6, 8}},
  };
}

std::optional<Algorithm> variant(const Algorithm& algorithm, const Setting& setting,
                                 uint32_t value) {
  uint32_t now = 0;  // narrower settings are its lower bytes
  size_t written = 0;
  if (cublasLtMatmulAlgoConfigGetAttribute(&algorithm, setting.attribute, &now, setting.n_bytes,
                                           &written) != CUBLAS_STATUS_SUCCESS ||
      now == value) {
    return std::nullopt;
  }
  Algorithm other = algorithm;
  if (!set(other, setting.attribute, value, setting.n_bytes)) return std::nullopt;
  if (setting.attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM) {
    const uint32_t scheme =
        value > 1 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_NONE;
    if (!set(other, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, scheme, sizeof scheme)) {
      return std::nullopt;
    }
  }
  return other;
}

std::vector<Algorithm> neighbours(const LtProduct& product, const Algorithm& algorithm) {
  std::vector<Algorithm> found;
  for (const Setting& setting : settings_of(algorithm)) {
    for (const uint32_t value : setting.values) {
      const std::optional<Algorithm> other = variant(algorithm, setting, value);
      if (other && product.accepts(*other)) found.push_back(*other);
    }
  }
  return found;
}

Algorithm search(const LtProduct& product, const std::vector<Algorithm>& candidates, double n_flops,
                 Effort effort) {
  const Rounds& rounds = effort == Effort::kQuick ? kQuickRounds : kCarefulRounds;
  const int n_repeats = repeats_for(rounds.timed_seconds, n_flops);
  Algorithm best = fastest(product, candidates, rounds, n_repeats);
  for (int step = 0; effort == Effort::kThorough && step < kMostSteps; ++step) {
    const std::vector<Algorithm> others = neighbours(product, best);
    if (others.empty()) break;
    const Algorithm rival = fastest(product, others, rounds, n_repeats);
    const std::vector<double> times = measure(product, {best, rival}, rounds.n_careful, n_repeats);
    if (times[1] >= times[0] * kGain) break;
    best = rival;
  }
  return best;
}

}  // namespace vernier::kernels::cuda
