#include "kernels/lt_product_cuda.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace vernier::kernels::cuda {
namespace {

// What NVIDIA recommends for Hopper is 32 MiB; parts of a split k that are added in FP32 ask for
// more.
constexpr int64_t kWorkspaceBytes = 64 << 20;
// Parts are added in a fixed order and in FP32: neither in the output's type nor by atomics.
constexpr uint32_t kReductionSchemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

cudaDataType_t cuda_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF8E4M3:
      return CUDA_R_8F_E4M3;
    default:
      VERNIER_CHECK(dtype == DType::kF4);
      return CUDA_R_4F_E2M1;
  }
}

cublasLtMatrixLayoutOpaque_t layout_of(ConstAnyMatrixView matrix) {
  cublasLtMatrixLayoutOpaque_t layout;
  VERNIER_CUBLAS(cublasLtMatrixLayoutInit(
      &layout, cuda_type(matrix.dtype), static_cast<uint64_t>(matrix.cols),
      static_cast<uint64_t>(matrix.rows), std::max(matrix.row_stride, matrix.cols)));
  return layout;
}

uint32_t reduction_scheme(const Algorithm& algorithm) {
  uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
  size_t n_bytes = 0;
  VERNIER_CUBLAS(cublasLtMatmulAlgoConfigGetAttribute(
      &algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme, sizeof scheme, &n_bytes));
  return scheme;
}

}  // namespace

void check_cublas(cublasStatus_t status, const char* call) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw Error(ErrorKind::kEnvironment, fmt::format("a matrix product failed: {} in {}",
                                                   cublasLtGetStatusString(status), call));
}

int alignment_bytes(ConstAnyMatrixView matrix) {
  int alignment = 16;
  while (reinterpret_cast<uintptr_t>(matrix.data) % static_cast<uintptr_t>(alignment) != 0) {
    alignment /= 2;
  }
  return alignment;
}

LtLibrary::LtLibrary(Device& device)
    : stream_(stream_of(&device)), workspace_(DType::kU8, {kWorkspaceBytes}, &device) {
  VERNIER_CUBLAS(cublasLtCreate(&handle_));
}

LtLibrary::~LtLibrary() { cublasLtDestroy(handle_); }

LtProduct::LtProduct(LtLibrary& library, const Product& product)
    : library_(library),
      product_(product),
      operand_type_(cuda_type(product.x.dtype)),
      y_type_(cuda_type(product.y.dtype)),
      weight_(layout_of(product.weight)),
      x_(layout_of(product.x)),
      y_(layout_of(product.y)) {
  VERNIER_CHECK(product.x.dtype == product.weight.dtype);
  VERNIER_CHECK(product.form == ProductForm::kForward || product.x.dtype == DType::kBF16 ||
                product.x.dtype == DType::kF32);
  VERNIER_CUBLAS(cublasLtMatmulDescInit(&operation_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const cublasOperation_t of_weight =
      product.form == ProductForm::kForward ? CUBLAS_OP_T : CUBLAS_OP_N;
  const cublasOperation_t of_x =
      product.form == ProductForm::kWeightGradient ? CUBLAS_OP_T : CUBLAS_OP_N;
  set(CUBLASLT_MATMUL_DESC_TRANSA, &of_weight, sizeof of_weight);
  set(CUBLASLT_MATMUL_DESC_TRANSB, &of_x, sizeof of_x);
  const int8_t fast = product.fast_accumulation;
  set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
  if (product.x.dtype == DType::kF4) describe_block_scales();
}

void LtProduct::set(cublasLtMatmulDescAttributes_t attribute, const void* value, size_t size) {
  VERNIER_CUBLAS(cublasLtMatmulDescSetAttribute(&operation_, attribute, value, size));
}

void LtProduct::describe_block_scales() {
  const cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3;
  set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode);
  set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode);
  set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &product_.weight_block_scales, sizeof(void*));
  set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &product_.x_block_scales, sizeof(void*));
}

std::vector<Algorithm> LtProduct::heuristics(int n_most) const {
  cublasLtMatmulPreferenceOpaque_t preference;
  VERNIER_CUBLAS(cublasLtMatmulPreferenceInit(&preference));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    VERNIER_CUBLAS(
        cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value));
  };
  const auto alignment = [](ConstAnyMatrixView matrix) {
    return static_cast<uint32_t>(alignment_bytes(matrix));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{library_.workspace_bytes()});
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductionSchemes);
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment(product_.weight));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment(product_.x));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment(product_.y));
  prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment(product_.y));

  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<size_t>(n_most));
  int n_found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(library_.handle(), &operation_, &weight_, &x_, &y_, &y_,
                                     &preference, n_most, results.data(), &n_found);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED && status != CUBLAS_STATUS_INVALID_VALUE) {
    VERNIER_CUBLAS(status);
  }
  std::vector<Algorithm> algorithms;
  for (int index = 0; index < n_found; ++index) {
    if (results[index].state == CUBLAS_STATUS_SUCCESS) algorithms.push_back({results[index].algo});
  }
  return algorithms;
}

bool LtProduct::accepts(const Algorithm& algorithm) const {
  if ((reduction_scheme(algorithm) & ~kReductionSchemes) != 0) return false;
  cublasLtMatmulHeuristicResult_t result;
  const cublasStatus_t status = cublasLtMatmulAlgoCheck(library_.handle(), &operation_, &weight_,
                                                        &x_, &y_, &y_, &algorithm, &result);
  return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= library_.workspace_bytes();
}

cublasStatus_t LtProduct::queue(const Algorithm& algorithm) const {
  const float beta = product_.adds ? 1 : 0;
  return cublasLtMatmul(library_.handle(), &operation_, &product_.alpha, product_.weight.data,
                        &weight_, product_.x.data, &x_, &beta, product_.y.data, &y_,
                        product_.y.data, &y_, &algorithm, library_.workspace(),
                        library_.workspace_bytes(), library_.stream());
}

std::vector<int> LtProduct::algorithm_ids() const {
  std::vector<int> ids(1000);
  int n_found = 0;
  VERNIER_CUBLAS(cublasLtMatmulAlgoGetIds(library_.handle(), CUBLAS_COMPUTE_32F, CUDA_R_32F,
                                          operand_type_, operand_type_, y_type_, y_type_,
                                          static_cast<int>(ids.size()), ids.data(), &n_found));
  ids.resize(static_cast<size_t>(n_found));
  return ids;
}

std::optional<Algorithm> LtProduct::algorithm(int id) const {
  Algorithm algorithm;
  const cublasStatus_t status =
      cublasLtMatmulAlgoInit(library_.handle(), CUBLAS_COMPUTE_32F, CUDA_R_32F, operand_type_,
                             operand_type_, y_type_, y_type_, id, &algorithm);
  if (status != CUBLAS_STATUS_SUCCESS) return std::nullopt;
  return algorithm;
}

}  // namespace vernier::kernels::cuda
