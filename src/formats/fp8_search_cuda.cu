// The squared error of a weight for each candidate amax. All candidates are compared by sums of the
// whole weight, which differ little, so the sums are made in exactly the host's order (fp8_loss):
// 16 partial sums a row, by column mod 16, added one by one; then the rows in their order. Hence
// a half warp takes a row, a lane a partial sum, for eight candidates at a time; what bounds it is
// the arithmetic, about 11 operations a weight and candidate, not the 2 bytes read for eight of
// them.
#include "formats/fp8_search_cuda.h"

#include "formats/codes_cuda.h"
#include "formats/fp8.h"

namespace vernier::formats::cuda {
namespace {

constexpr int kLanes = 16;  // of a row
constexpr int kRows = 16;   // of a block
constexpr int kThreads = kLanes * kRows;
constexpr int kCandidates = 8;  // of a thread

// sum + (w - fp8_fake_quant(w, up))^2 for a magnitude w; negative weights have the same error.
// The square is exact in FP64, so that there is one rounding, the addition's.
__device__ double add_loss(double sum, float w, float up, float down) {
  const float error = w - round_to_e4m3(fminf(w * up, kE4m3Max)) * down;
  const double wide = error;
  return fma(wide, wide, sum);
}

// losses[row][candidate], for candidates [8 blockIdx.y, ...).
__global__ void __launch_bounds__(kThreads)
    sum_of_rows(const Bf16* w, int64_t n, int64_t k, const float* ups, int n_candidates,
                double* losses) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int first = static_cast<int>(blockIdx.y) * kCandidates;
  float up[kCandidates], down[kCandidates];
  double sums[kCandidates] = {};
#pragma unroll
  for (int i = 0; i < kCandidates; ++i) {
    up[i] = ups[min(first + i, n_candidates - 1)];
    down[i] = 1.0f / up[i];
  }
  const Bf16* const elems = w + row * k;
  for (int64_t col = row < n ? lane : k; col < k; col += kLanes) {
    const float magnitude = fabsf(bf16_to_float(elems[col]));
#pragma unroll
    for (int i = 0; i < kCandidates; ++i) {
      sums[i] = add_loss(sums[i], magnitude, up[i], down[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kCandidates; ++i) {
    double sum = 0;
    for (int from = 0; from < kLanes; ++from) {
      sum += __shfl_sync(0xFFFFFFFFu, sums[i], from, kLanes);
    }
    if (lane == 0 && row < n && first + i < n_candidates)
      losses[row * n_candidates + first + i] = sum;
  }
}

// One thread a candidate. Loads run ahead of the additions.
__global__ void sum_of_all(const double* losses, int64_t n, int n_candidates, double* totals) {
  const int candidate = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (candidate >= n_candidates) return;
  double sum = 0;
#pragma unroll 16
  for (int64_t row = 0; row < n; ++row) sum += losses[row * n_candidates + candidate];
  totals[candidate] = sum;
}

}  // namespace

std::vector<double> fp8_candidate_losses(const TensorView& weight,
                                         const std::vector<float>& amaxes) {
  VERNIER_CHECK(weight.dtype == DType::kBF16);
  const int64_t n = weight.shape[0], k = weight.shape[1];
  const int64_t n_candidates = std::ssize(amaxes);
  std::vector<double> totals(amaxes.size());
  if (n == 0) return totals;
  std::vector<float> ups;
  for (const float amax : amaxes) ups.push_back(fp8_candidate_multiplier(amax));
  const Vector<float> ups_there(std::span<const float>(ups), weight.device);
  Tensor losses(DType::kF64, {n, n_candidates}, weight.device);
  Tensor totals_there(DType::kF64, {n_candidates}, weight.device);
  const cudaStream_t stream = stream_of(weight.device);
  const int count = static_cast<int>(n_candidates);
  const dim3 grid(static_cast<unsigned>(ceil_div(n, kRows)),
                  static_cast<unsigned>(ceil_div(n_candidates, kCandidates)));
  sum_of_rows<<<grid, kThreads, 0, stream>>>(weight.as<Bf16>().data(), n, k, ups_there.view().data,
                                             count, losses.as<double>().data());
  check_launch();
  constexpr int kSumThreads = 32;
  sum_of_all<<<static_cast<unsigned>(ceil_div(n_candidates, kSumThreads)), kSumThreads, 0,
               stream>>>(losses.as<double>().data(), n, count, totals_there.as<double>().data());
  check_launch();
  copy_bytes(totals.data(), nullptr, totals_there.data(), weight.device,
             totals_there.view().size_bytes());
  return totals;
}

}  // namespace vernier::formats::cuda
