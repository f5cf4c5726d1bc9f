// The machine instructions that BF16 attention is made of: asynchronous copies, matrix fragments
// between shared memory and registers, products of 16 x 8 x 16 on tensor cores.
//
// Fragments (lane l of a warp, g = l / 4, c = 2 (l % 4)):
//   A [16 rows x 16 k]: a[0] = (g, c..c+1), a[1] = (g + 8, c..), a[2] = (g, c + 8..), a[3] = (g +
//   8, c + 8..). B [16 k x 8 columns]: b0 = (k c..c+1, column g), b1 = (k c + 8.., column g). C [16
//   rows x 8 columns]: c[0..1] = (g, c..c+1), c[2..3] = (g + 8, c..c+1).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace vernier::kernels::cuda {

__device__ inline uint32_t shared_address(const void* data) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(data));
}

// 16 bytes from global to shared memory, or 16 zero bytes; both addresses aligned to 16.
__device__ inline void copy_async(std::byte* to, const void* from, bool is_inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(is_inside ? 16 : 0)
               : "memory");
}

// Waits for the calling thread's copies. Others see them after a barrier.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Four matrices of 8 x 8 BF16: lanes 8 i .. 8 i + 7 give the rows of matrix i, 16 bytes each; the
// lane gets elements (l / 4, 2 (l % 4)..) of each.
__device__ inline void load_fragments(uint32_t (&to)[4], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same of the transposed matrices.
__device__ inline void load_fragments_transposed(uint32_t (&to)[4], const std::byte* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
}

// c += A B with BF16 factors and FP32 sums.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 2^x, of 2 ulp; results below the smallest normal number are zero.
__device__ inline float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two values rounded to BF16, the first in the lower half.
__device__ inline uint32_t bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// Two E4M3 codes as BF16, which holds them exactly.
__device__ inline uint32_t bf16_pair_of_e4m3(uint32_t codes) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<uint16_t>(codes)));
  const float2 values = __half22float2(reinterpret_cast<const __half2&>(halves));
  return bf16_pair(values.x, values.y);
}

}  // namespace vernier::kernels::cuda
