// The largest magnitude of a BF16 tensor on a device. Magnitudes are compared as integers, as on
// the host (amax.cc), two in a word. One block reads every n-th tile of 16 KiB, four loads of 16
// bytes in flight a thread, and writes its own largest; the host takes the largest of these. The
// rare tensor with a non-finite element is read once more. Minima and maxima do not depend on the
// order, so results do not either.
#include "formats/amax_cuda.h"

#include <vector>

#include "formats/codes_cuda.h"

namespace vernier::formats::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kLoads = 4;  // a thread, of eight elements
constexpr uint32_t kInfinity = 0x7F80;

__device__ uint32_t larger_magnitudes(uint32_t largest, const Bf16x8& eight) {
#pragma unroll
  for (const uint32_t pair : eight.pair) largest = __vmaxu2(largest, pair & 0x7FFF7FFFu);
  return largest;
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads)
    largest_magnitudes(const Bf16* elems, int64_t count, uint32_t* largest) {
  const int64_t n_eights = count / 8;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads * kLoads;
  int64_t eight = static_cast<int64_t>(blockIdx.x) * kThreads * kLoads + threadIdx.x;
  uint32_t mine = 0;
  for (; eight + (kLoads - 1) * kThreads < n_eights; eight += stride) {
    Bf16x8 loaded[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      loaded[i] = load_eight<kAligned>(elems + (eight + i * kThreads) * 8);
    }
#pragma unroll
    for (const Bf16x8& one : loaded) mine = larger_magnitudes(mine, one);
  }
  // Of the last tile this thread has less than its share, if anything.
  for (; eight < n_eights; eight += kThreads) {
    mine = larger_magnitudes(mine, load_eight<kAligned>(elems + eight * 8));
  }
  if (blockIdx.x == 0 && n_eights * 8 + threadIdx.x < count) {
    mine = __vmaxu2(mine, elems[n_eights * 8 + threadIdx.x] & 0x7FFFu);
  }
  mine = max(mine & 0xFFFFu, mine >> 16);

  __shared__ uint32_t of_warp[kThreads / 32];
  mine = __reduce_max_sync(0xFFFFFFFFu, mine);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = mine;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  mine = threadIdx.x < kThreads / 32 ? of_warp[threadIdx.x] : 0;
  mine = __reduce_max_sync(0xFFFFFFFFu, mine);
  if (threadIdx.x == 0) largest[blockIdx.x] = mine;
}

// Of a tensor with non-finite elements.
struct NonFiniteScan {
  unsigned long long first_non_finite;
  uint32_t largest_finite;
};

__global__ void __launch_bounds__(kThreads)
    scan_non_finite(const Bf16* elems, int64_t count, NonFiniteScan* scan) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  uint32_t largest = 0;
  int64_t first = count;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += stride) {
    const uint32_t magnitude = elems[i] & 0x7FFFu;
    if (magnitude < kInfinity) {
      largest = max(largest, magnitude);
    } else {
      first = min(first, i);
    }
  }
  atomicMin(&scan->first_non_finite, static_cast<unsigned long long>(first));
  atomicMax(&scan->largest_finite, largest);
}

AmaxScan scan_around_non_finite(const TensorView& weight) {
  const int64_t count = weight.size();
  NonFiniteScan scan = {static_cast<unsigned long long>(count), 0};
  Tensor result(DType::kU8, {sizeof(scan)}, weight.device);
  copy_bytes(result.data(), weight.device, &scan, nullptr, sizeof(scan));
  const auto n_blocks = std::min<int64_t>(ceil_div(count, kThreads), 1024);
  scan_non_finite<<<static_cast<unsigned>(n_blocks), kThreads, 0, stream_of(weight.device)>>>(
      weight.as<Bf16>().data(), count, reinterpret_cast<NonFiniteScan*>(result.data()));
  check_launch();
  copy_bytes(&scan, nullptr, result.data(), weight.device, sizeof(scan));
  return {.amax = bf16_to_float(static_cast<uint16_t>(scan.largest_finite)),
          .first_non_finite = static_cast<int64_t>(scan.first_non_finite)};
}

}  // namespace

AmaxScan scan_amax(const TensorView& weight) {
  VERNIER_CHECK(weight.dtype == DType::kBF16);
  const int64_t count = weight.size();
  if (count == 0) return {};
  const int64_t resident = vernier::cuda(weight.device).properties().multiProcessorCount * 8;
  const int64_t n_blocks = std::min(ceil_div(count, kThreads * kLoads * 8), resident);
  Tensor of_block(DType::kU32, {n_blocks}, weight.device);
  const Bf16* const elems = weight.as<Bf16>().data();
  with_flag(is_aligned(elems), [&](auto aligned) {
    largest_magnitudes<aligned()>
        <<<static_cast<unsigned>(n_blocks), kThreads, 0, stream_of(weight.device)>>>(
            elems, count, of_block.as<uint32_t>().data());
  });
  check_launch();
  const Tensor host = to_device(of_block.view(), nullptr);
  uint32_t largest = 0;
  for (const uint32_t magnitude : host.as<uint32_t>()) largest = std::max(largest, magnitude);
  if (largest >= kInfinity) return scan_around_non_finite(weight);
  return {.amax = bf16_to_float(static_cast<uint16_t>(largest)), .first_non_finite = std::nullopt};
}

}  // namespace vernier::formats::cuda
