// NVFP4 block scales that minimize the error of a layer's outputs rather than of its weights. The
// inputs x of block b have a second moment H_b = mean of x x^T; a weight block that is off by dw
// then costs dw^T H_b dw. Candidates and their rounding are the sweep's (nvfp4_sweep_scale).
#pragma once

#include "formats/nvfp4.h"
#include "tensor/any_matrix.h"
#include "tensor/tensor.h"

namespace vernier::formats {

inline constexpr int kNvfp4HessianElems = static_cast<int>(kNvfp4Block * kNvfp4Block);
// A Hessian is symmetric, so only its upper triangle is read, row by row, the elements off the
// diagonal doubled (which is exact): dw^T H dw is the sum over i of dw_i t_i with
//   t_i = H_ii dw_i + sum over j > i of 2 H_ij dw_j.
inline constexpr int kNvfp4TriangleElems = static_cast<int>(kNvfp4Block * (kNvfp4Block + 1) / 2);

// The triangle's element at row i, column j >= i.
VERNIER_HD constexpr int nvfp4_triangle_index(int i, int j) {
  return i * static_cast<int>(kNvfp4Block) - i * (i - 1) / 2 + j - i;
}
VERNIER_HD constexpr float nvfp4_triangle_elem(const float* hessian, int i, int j) {
  const float elem = hessian[i * static_cast<int>(kNvfp4Block) + j];
  return i == j ? elem : 2 * elem;
}

// What the rule minimizes, for 16 weights with their signs. Bytes depend on the order of the sums,
// so it is fixed: every product and sum is rounded, t_i is summed from j = i upward, and the
// products dw_i t_i are added as a tree like that of nvfp4_block_loss. With the identity for H it
// is nvfp4_block_loss.
VERNIER_HD constexpr float nvfp4_hessian_loss(const float* w, const float* triangle, float scale) {
  constexpr int kBlock = static_cast<int>(kNvfp4Block);
  float dw[kBlock] = {};
  for (int i = 0; i < kBlock; ++i) {
    const float magnitude = w[i] < 0 ? -w[i] : w[i];
    const float error = magnitude - nvfp4_fake_quant(magnitude, scale);
    dw[i] = w[i] < 0 ? -error : error;
  }
  float sum[kBlock] = {};
  for (int i = 0; i < kBlock; ++i) {
    float t = triangle[nvfp4_triangle_index(i, i)] * dw[i];
    for (int j = i + 1; j < kBlock; ++j) t += triangle[nvfp4_triangle_index(i, j)] * dw[j];
    sum[i] = dw[i] * t;
  }
  for (int width = 1; width < kBlock; width *= 2) {
    for (int i = 0; i < kBlock; i += 2 * width) sum[i] += sum[i + width];
  }
  return sum[0];
}

// scales[row, b] = the code of least nvfp4_hessian_loss, the lowest of equal ones; 1 where no loss
// is finite. A weight block of zeros thus gets 1, as in the sweep.
//   weight    BF16 [n, k], finite, k a multiple of 16
//   hessians  [k / 16, 16, 16], one for each block of inputs, the same for all rows; symmetric,
//             positive semi-definite, elements below 2^127. A block of zeros stands for "not
//             known" and counts as the identity: plain squared error, as in the sweep.
//   ga        as storable_amax gives it
//   scales    [n, k / 16]
// All three are in host memory or on one device, where the work is queued; both give the same
// bytes.
void nvfp4_choose_hessian_scales(const TensorView& weight, VectorView<const float> hessians,
                                 float ga, Arithmetic arithmetic, uint8_t* scales);

namespace cuda {

// The same for a weight on a device (nvfp4_hessian_cuda.cu).
void nvfp4_choose_hessian_scales(const TensorView& weight, VectorView<const float> hessians,
                                 float ga, Arithmetic arithmetic, uint8_t* scales);

}  // namespace cuda
}  // namespace vernier::formats
