// One matrix product as cuBLASLt sees it. Row-major y = x W^T is column-major y^T = W x^T with the
// first operand transposed, the only form that its FP8 kernels take; gradients are the forms beside
// it. No operand is ever copied.
#pragma once

#include <cublasLt.h>

#include <array>
#include <optional>
#include <vector>

#include "tensor/any_matrix.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {

// The form of a product y [m, n]. In each, x has a row for every token.
enum class ProductForm {
  kForward,         // y = x weight^T, x [m, k], weight [n, k]
  kInputGradient,   // y = x weight, x [m, k], weight [k, n]
  kWeightGradient,  // y = x^T weight, x [k, m], weight [k, n]
};

// y = alpha times the product of x and weight, overwritten or, `adds`, added to; all with rows
// apart as they like, on one device. x and weight have one type, in gradients BF16 or FP32:
//   BF16     y BF16 or FP32, accumulated in FP32
//   FP32     y FP32, no reduced precision anywhere
//   F8_E4M3  y BF16 or FP32. On Hopper the tensor cores add in some 14 bits; sums move to FP32
//            every few steps, or with fast_accumulation never
//   F4       E2M1 pairs with scales of blocks of 16 (nvfp4_block_scaled_cuda.h); from sm_100 on
struct Product {
  ConstAnyMatrixView x;
  ConstAnyMatrixView weight;
  AnyMatrixView y;
  float alpha = 1;
  bool fast_accumulation = false;
  ProductForm form = ProductForm::kForward;
  bool adds = false;
  // E4M3 block scales of F4 operands, swizzled.
  const void* x_block_scales = nullptr;
  const void* weight_block_scales = nullptr;

  int64_t m() const { return y.rows; }
  int64_t n() const { return y.cols; }
  int64_t k() const { return form == ProductForm::kWeightGradient ? x.rows : x.cols; }
};

// One of the library's ways to compute a product, all its settings included. (A type with a name:
// nvcc 13.0 fails on a vector of the library's own, which has none.)
struct Algorithm : cublasLtMatmulAlgo_t {};

// Throws Environment with the call and cuBLASLt's own words unless `status` is success.
void check_cublas(cublasStatus_t status, const char* call);
#define VERNIER_CUBLAS(call) ::vernier::kernels::cuda::check_cublas((call), #call)

// The library's handle and the memory that its kernels may use between a product's start and end.
class LtLibrary {
 public:
  explicit LtLibrary(Device& device);
  ~LtLibrary();
  LtLibrary(const LtLibrary&) = delete;
  LtLibrary& operator=(const LtLibrary&) = delete;

  cublasLtHandle_t handle() const { return handle_; }
  cudaStream_t stream() const { return stream_; }
  void* workspace() { return workspace_.data(); }
  size_t workspace_bytes() const { return static_cast<size_t>(workspace_.size()); }

 private:
  cudaStream_t stream_;
  Tensor workspace_;
  cublasLtHandle_t handle_ = nullptr;
};

// A product's descriptors.
class LtProduct {
 public:
  LtProduct(LtLibrary& library, const Product& product);

  // The library's own choices, the most promising first; none where it cannot compute this.
  std::vector<Algorithm> heuristics(int n_most) const;
  // Whether the algorithm computes this product, within the workspace and in an order of additions
  // that depends on nothing but the algorithm.
  bool accepts(const Algorithm& algorithm) const;
  // Queues the product. Nothing is queued unless the answer is success.
  cublasStatus_t queue(const Algorithm& algorithm) const;

  // A new algorithm by its number (bench: all of them), with default settings.
  std::vector<int> algorithm_ids() const;
  std::optional<Algorithm> algorithm(int id) const;
  cudaStream_t stream() const { return library_.stream(); }

 private:
  void set(cublasLtMatmulDescAttributes_t attribute, const void* value, size_t size);
  void describe_block_scales();

  LtLibrary& library_;
  Product product_;
  cudaDataType_t operand_type_;
  cudaDataType_t y_type_;
  mutable cublasLtMatmulDescOpaque_t operation_;
  mutable cublasLtMatrixLayoutOpaque_t weight_;
  mutable cublasLtMatrixLayoutOpaque_t x_;
  mutable cublasLtMatrixLayoutOpaque_t y_;
};

// The largest power of two, at most 16, that divides the matrix's address: what a kernel may load
// at once.
int alignment_bytes(ConstAnyMatrixView matrix);

}  // namespace vernier::kernels::cuda
