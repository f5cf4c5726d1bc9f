// The host's matrix product, as the ops see it.
#pragma once

#include "tensor/matrix.h"

namespace vernier::kernels::cpu {

// A matrix as an operand: itself or its transpose.
struct Operand {
  ConstMatrixView matrix;
  bool transposed = false;
};
inline Operand plain(ConstMatrixView matrix) { return {matrix, false}; }
inline Operand transposed(ConstMatrixView matrix) { return {matrix, true}; }

// c = a b + beta c, in FP32, on the calling thread (once configure_host_threads has run). With beta
// 0, c is overwritten, whatever it held. c shares no memory with a and b.
void gemm(Operand a, Operand b, float beta, MatrixView c);

}  // namespace vernier::kernels::cpu
