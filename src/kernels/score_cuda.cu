// Scores of logits on a device. A block takes one token and reads its row, or two, twice: once for
// the maxima and where they lie, once for the sums of exponentials relative to them (the formula
// and its reasons: log_softmax_cpu.cc). Exponentials are FP32, sums double, each thread's in order
// and threads' in a fixed tree. A row of 131072 logits is 512 KiB: the second reading comes from
// memory too, which keeping rows in shared memory would not change.
#include <cstddef>
#include <vector>

#include "kernels/block_sums_cuda.h"
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;

// The largest value of a row and the lowest index that has it; 0 where nothing is above minus
// infinity.
struct Peak {
  float value = -INFINITY;
  int index = 0;

  __device__ void meet(Peak other) {
    const bool is_better = other.value > value || (other.value == value && other.index < index);
    if (is_better) *this = other;
  }
};

// The peak of all threads' peaks, in every thread.
__device__ Peak peak_of_block(Peak peak) {
  __shared__ float values[kWarps];
  __shared__ int indexes[kWarps];
  for (int step = 16; step > 0; step /= 2) {
    const float value = __shfl_xor_sync(~0u, peak.value, step);
    peak.meet({value, __shfl_xor_sync(~0u, peak.index, step)});
  }
  __syncthreads();  // the memory may be in use from a call before
  if (threadIdx.x % 32 == 0) {
    values[threadIdx.x / 32] = peak.value;
    indexes[threadIdx.x / 32] = peak.index;
  }
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) peak.meet({values[warp], indexes[warp]});
  return peak;
}

// Calls take(index, p[index], q[index]) for the thread's part of two rows, in ascending order. N: 4
// where both may be read 16 bytes at a time, n a multiple of it.
template <int N, class Take>
__device__ void for_each_logit(const float* p, const float* q, int n, Take take) {
#pragma unroll 4
  for (int first = threadIdx.x * N; first < n; first += kThreads * N) {
    const auto p_pack = Pack<float, N>::load(p + first);
    const auto q_pack = Pack<float, N>::load(q + first);
#pragma unroll
    for (int i = 0; i < N; ++i) take(first + i, p_pack.elems[i], q_pack.elems[i]);
  }
}

// The same of one row: take(index, q[index]).
template <int N, class Take>
__device__ void for_each_logit(const float* q, int n, Take take) {
#pragma unroll 4
  for (int first = threadIdx.x * N; first < n; first += kThreads * N) {
    const auto pack = Pack<float, N>::load(q + first);
#pragma unroll
    for (int i = 0; i < N; ++i) take(first + i, pack.elems[i]);
  }
}

__device__ void look_at(Peak& peak, int index, float value) {
  if (value > peak.value) peak = {value, index};
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    score_alone(Rows<const float> logits, int n, const int32_t* targets, TokenScore* scores) {
  const float* own = logits.at(blockIdx.x, 0);
  const int target = targets[blockIdx.x];
  if (target == kNoTarget) {
    if (threadIdx.x == 0) scores[blockIdx.x] = TokenScore{};
    return;
  }
  Peak peak;
  for_each_logit<N>(own, n, [&](int index, float value) { look_at(peak, index, value); });
  const float max = peak_of_block(peak).value;
  double sum = 0;
  for_each_logit<N>(own, n, [&](int, float value) { sum += expf(value - max); });
  sum = sum_of_block<kWarps>(sum);
  if (threadIdx.x != 0) return;
  scores[blockIdx.x] = TokenScore{.nll = max + log(sum) - own[target]};
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    score_against(Rows<const float> base, Rows<const float> logits, int n, const int32_t* targets,
                  TokenScore* scores) {
  const float* p = base.at(blockIdx.x, 0);
  const float* q = logits.at(blockIdx.x, 0);
  Peak p_peak, q_peak;
  for_each_logit<N>(p, q, n, [&](int index, float p_value, float q_value) {
    look_at(p_peak, index, p_value);
    look_at(q_peak, index, q_value);
  });
  p_peak = peak_of_block(p_peak);
  q_peak = peak_of_block(q_peak);
  const double shift = double{p_peak.value} - q_peak.value;
  double p_sum = 0, q_sum = 0, weighted = 0;
  for_each_logit<N>(p, q, n, [&](int, float p_value, float q_value) {
    const double e = expf(p_value - p_peak.value);
    p_sum += e;
    q_sum += expf(q_value - q_peak.value);
    if (e != 0) weighted += e * (double{p_value} - q_value - shift);
  });
  p_sum = sum_of_block<kWarps>(p_sum);
  q_sum = sum_of_block<kWarps>(q_sum);
  weighted = sum_of_block<kWarps>(weighted);
  if (threadIdx.x != 0) return;
  const int target = targets[blockIdx.x];
  TokenScore score;
  if (target != kNoTarget) score.nll = q_peak.value + log(q_sum) - q[target];
  score.kl = weighted / p_sum - (log(p_sum) - log(q_sum));
  score.is_agreed = p_peak.index == q_peak.index;
  scores[blockIdx.x] = score;
}

template <int N>
void launch(ConstAnyMatrixView base, ConstAnyMatrixView logits, const int32_t* targets,
            TokenScore* scores) {
  const cudaStream_t stream = stream_of(logits.device);
  const auto n_rows = static_cast<unsigned>(logits.rows);
  const int n = static_cast<int>(logits.cols);
  const auto q = rows_of<const float>(logits);
  if (base.data == logits.data) {
    score_alone<N><<<n_rows, kThreads, 0, stream>>>(q, n, targets, scores);
  } else {
    const auto p = rows_of<const float>(base);
    score_against<N><<<n_rows, kThreads, 0, stream>>>(p, q, n, targets, scores);
  }
  check_launch();
}

}  // namespace

void score_logits(ConstAnyMatrixView base, ConstAnyMatrixView logits,
                  std::span<const int32_t> targets, std::span<TokenScore> scores) {
  if (logits.rows == 0) return;
  Device* device = logits.device;
  const Vector<int32_t> device_targets(targets, device);
  Tensor device_scores(DType::kU8, {static_cast<int64_t>(scores.size_bytes())}, device);
  auto* to = reinterpret_cast<TokenScore*>(device_scores.data());
  if (has_packs(base, 4) && has_packs(logits, 4)) {
    launch<4>(base, logits, device_targets.view().data, to);
  } else {
    launch<1>(base, logits, device_targets.view().data, to);
  }
  device->copy_to_host(scores.data(), device_scores.data(),
                       static_cast<int64_t>(scores.size_bytes()));
}

}  // namespace vernier::kernels::cuda
