// Gradients of losses at the logits on a device, bound by memory. A block takes one token and reads
// its row (or two) twice, writing once: first for the largest logit and the sums relative to the
// largest so far, which are shrunk whenever a larger one comes, then for the gradient. A thread
// takes four packs of 16 bytes in flight. 1024 tokens of 131072 logits: 1.6 GB, or 2.7 GB with a
// teacher; 0.54 and 0.9 ms at 3 TB/s.
//
// The exponential is e = exp((logit - max) / 2), the root of what softmax sums: its square serves
// the sum, itself the probe. A probe's signs are made once, 128 by a counter, and kept as bits in
// shared memory: 16 KiB for 131072.
//
// Exponentials are FP32, sums double, each thread's in order and threads' in a fixed tree. Error of
// p: |logit - max| + 12 roundings of FP32.
#include <cfloat>
#include <string>

#include "base/error.h"
#include "kernels/block_sums_cuda.h"
#include "kernels/cuda.h"
#include "kernels/loss.h"
#include "kernels/packs_cuda.h"
#include "kernels/philox.h"
#include "kernels/shared_memory_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kAhead = 4;  // packs in flight
constexpr int kMaxSharedBytes = 200 * 1024;

__device__ float root_of_exp(float difference) { return expf(0.5f * difference); }

// kAhead packs of a row, from column `first`, kThreads packs apart; minus infinity beyond the end.
template <int N>
struct Part {
  Pack<float, N> packs[kAhead];

  __device__ static int col(int first, int p) { return first + p * kThreads * N; }
  __device__ Part(const float* row, int n, int first) {
#pragma unroll
    for (int p = 0; p < kAhead; ++p) {
      if (col(first, p) < n) {
        packs[p] = Pack<float, N>::load(row + col(first, p));
      } else {
#pragma unroll
        for (float& elem : packs[p].elems) elem = -INFINITY;
      }
    }
  }
};

// Calls take(first) for the first columns of a thread's parts of a row.
template <int N, class Take>
__device__ void for_each_part(int n, Take take) {
  for (int first = threadIdx.x * N; first < n; first += kAhead * kThreads * N) take(first);
}

// Bit i of the row's signs.
struct Signs {
  static constexpr bool kAny = true;
  const uint32_t* words;

  __device__ float at(int i) const { return words[i / 32] >> (i % 32) & 1 ? -1.0f : 1.0f; }
};
// For rows that need none.
struct NoSigns {
  static constexpr bool kAny = false;
};

// Of exponentials relative to `max`: their sum, and the sum of their roots with signs.
struct Sums {
  float max = -FLT_MAX;  // minus infinity would make NaN of a difference
  double exps = 0;
  double signed_roots = 0;

  __device__ void raise(float new_max) {
    if (!(new_max > max)) return;
    const double factor = root_of_exp(max - new_max);
    exps *= factor * factor;
    signed_roots *= factor;
    max = new_max;
  }
};

template <int N, class SignsOfRow>
__device__ Sums sums_of_thread(const float* row, int n, const SignsOfRow& signs) {
  Sums sums;
  for_each_part<N>(n, [&](int first) {
    const Part<N> part(row, n, first);
    float max = -INFINITY;
#pragma unroll
    for (const auto& pack : part.packs) {
#pragma unroll
      for (const float logit : pack.elems) max = fmaxf(max, logit);
    }
    sums.raise(max);
#pragma unroll
    for (int p = 0; p < kAhead; ++p) {
      if (part.col(first, p) >= n) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float root = root_of_exp(part.packs[p].elems[i] - sums.max);
        sums.exps += double{root} * root;
        if constexpr (SignsOfRow::kAny) {
          sums.signed_roots += root * signs.at(part.col(first, p) + i);
        }
      }
    }
  });
  return sums;
}

// The largest of all threads' values, in every thread.
__device__ float max_of_block(float value) {
  __shared__ float warps[kWarps];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
  }
  __syncthreads();  // the memory may be in use from a call before
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  for (const float each : warps) value = fmaxf(value, each);
  return value;
}

// What softmax needs to know of a row.
struct RowSoftmax {
  float max;
  float factor;        // 1 / sqrt(sum of exponentials)
  float signed_roots;  // sum of sqrt(p) with signs

  // All threads of the block.
  template <int N, class SignsOfRow>
  __device__ static RowSoftmax of(const float* row, int n, const SignsOfRow& signs) {
    Sums sums = sums_of_thread<N>(row, n, signs);
    sums.raise(max_of_block(sums.max));
    const double root = 1 / sqrt(sum_of_block<kWarps>(sums.exps));
    const double signed_roots = sum_of_block<kWarps>(sums.signed_roots);
    return {sums.max, static_cast<float>(root), static_cast<float>(signed_roots * root)};
  }
  // sqrt(p).
  __device__ float root(float logit) const { return root_of_exp(logit - max) * factor; }
  __device__ float p(float logit) const { return root(logit) * root(logit); }
};

// g[i] = gradient(i, row[i]) for the thread's part of a row, which g may be.
template <int N, class Gradient>
__device__ void write_gradient(const float* row, int n, float* g, Gradient gradient) {
  for_each_part<N>(n, [&](int first) {
    const Part<N> part(row, n, first);
#pragma unroll
    for (int p = 0; p < kAhead; ++p) {
      const int col = part.col(first, p);
      if (col >= n) continue;
      Pack<float, N> result;
#pragma unroll
      for (int i = 0; i < N; ++i) result.elems[i] = gradient(col + i, part.packs[p].elems[i]);
      result.store(g + col);
    }
  });
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    cross_entropy(Rows<const float> logits, int n, const int32_t* targets, float scale,
                  Rows<float> g_logits) {
  const float* row = logits.at(blockIdx.x, 0);
  float* g = g_logits.at(blockIdx.x, 0);
  const int target = targets[blockIdx.x];
  if (target == kNoTarget) {
    write_gradient<N>(row, n, g, [](int, float) { return 0.0f; });
    return;
  }
  const auto softmax = RowSoftmax::of<N>(row, n, NoSigns{});
  write_gradient<N>(row, n, g, [&](int i, float logit) {
    return scale * (softmax.p(logit) - (i == target ? 1.0f : 0.0f));
  });
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    probe(Rows<const float> logits, int n, uint64_t seed, uint64_t first_token, float scale,
          Rows<float> g_logits) {
  auto* blocks = reinterpret_cast<PhiloxWords*>(dynamic_shared());
  for (int block = threadIdx.x; block * kSignsPerBlock < n; block += kThreads) {
    blocks[block] = probe_signs(seed, first_token + blockIdx.x, block);
  }
  __syncthreads();
  const Signs signs{reinterpret_cast<const uint32_t*>(dynamic_shared())};
  const float* row = logits.at(blockIdx.x, 0);
  const auto softmax = RowSoftmax::of<N>(row, n, signs);
  write_gradient<N>(row, n, g_logits.at(blockIdx.x, 0), [&](int i, float logit) {
    const float root = softmax.root(logit);
    return scale * (root * signs.at(i) - root * root * softmax.signed_roots);
  });
}

template <int N>
__global__ void __launch_bounds__(kThreads)
    divergence(Rows<const float> teacher_logits, Rows<const float> logits, int n, float scale,
               Rows<float> g_logits) {
  const float* teacher_row = teacher_logits.at(blockIdx.x, 0);
  const float* row = logits.at(blockIdx.x, 0);
  float* g = g_logits.at(blockIdx.x, 0);
  const auto teacher = RowSoftmax::of<N>(teacher_row, n, NoSigns{});
  const auto softmax = RowSoftmax::of<N>(row, n, NoSigns{});
  for_each_part<N>(n, [&](int first) {
    const Part<N> teacher_part(teacher_row, n, first);
    const Part<N> part(row, n, first);
#pragma unroll
    for (int p = 0; p < kAhead; ++p) {
      if (part.col(first, p) >= n) continue;
      Pack<float, N> result;
#pragma unroll
      for (int i = 0; i < N; ++i) {
        // Not contracted with the last product in p: equal rows must cancel.
        result.elems[i] = scale * __fsub_rn(softmax.p(part.packs[p].elems[i]),
                                            teacher.p(teacher_part.packs[p].elems[i]));
      }
      result.store(g + part.col(first, p));
    }
  });
}

// Calls body with the number of columns of a pack that all matrices have, as a constant.
template <class Body>
void with_packs(std::initializer_list<ConstAnyMatrixView> matrices, Body body) {
  bool fits = true;
  for (const ConstAnyMatrixView& matrix : matrices) fits = fits && has_packs(matrix, 4);
  if (fits) {
    body(std::integral_constant<int, 4>());
  } else {
    body(std::integral_constant<int, 1>());
  }
}

bool is_empty(ConstAnyMatrixView matrix) { return matrix.rows == 0 || matrix.cols == 0; }

}  // namespace

void cross_entropy_gradient(ConstAnyMatrixView logits, std::span<const int32_t> targets,
                            float scale, AnyMatrixView g_logits) {
  if (is_empty(logits)) return;
  const Vector<int32_t> device_targets(targets, logits.device);
  with_packs({logits, g_logits}, [&]<class N>(N) {
    cross_entropy<N::value>
        <<<static_cast<unsigned>(logits.rows), kThreads, 0, stream_of(logits.device)>>>(
            rows_of<const float>(logits), static_cast<int>(logits.cols), device_targets.view().data,
            scale, rows_of<float>(g_logits));
    check_launch();
  });
}

void fisher_probe(ConstAnyMatrixView logits, uint64_t seed, uint64_t first_token, float scale,
                  AnyMatrixView g_logits) {
  if (is_empty(logits)) return;
  const int64_t n_blocks = (logits.cols + kSignsPerBlock - 1) / kSignsPerBlock;
  const int64_t bytes = n_blocks * static_cast<int64_t>(sizeof(PhiloxWords));
  if (bytes > kMaxSharedBytes) {
    throw Error(ErrorKind::kUnsupported,
                "a probe of " + std::to_string(logits.cols) + " logits on a device: at most " +
                    std::to_string(kMaxSharedBytes * 8) + " are supported");
  }
  with_packs({logits, g_logits}, [&]<class N>(N) {
    VERNIER_CUDA(cudaFuncSetAttribute(probe<N::value>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(bytes)));
    probe<N::value><<<static_cast<unsigned>(logits.rows), kThreads, static_cast<size_t>(bytes),
                      stream_of(logits.device)>>>(rows_of<const float>(logits),
                                                  static_cast<int>(logits.cols), seed, first_token,
                                                  scale, rows_of<float>(g_logits));
    check_launch();
  });
}

void kl_gradient(ConstAnyMatrixView teacher_logits, ConstAnyMatrixView logits, float scale,
                 AnyMatrixView g_logits) {
  if (is_empty(logits)) return;
  with_packs({teacher_logits, logits, g_logits}, [&]<class N>(N) {
    divergence<N::value>
        <<<static_cast<unsigned>(logits.rows), kThreads, 0, stream_of(logits.device)>>>(
            rows_of<const float>(teacher_logits), rows_of<const float>(logits),
            static_cast<int>(logits.cols), scale, rows_of<float>(g_logits));
    check_launch();
  });
}

}  // namespace vernier::kernels::cuda
