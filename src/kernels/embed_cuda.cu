// Rows of an embedding. A block copies one row of an unpacked weight, neighbouring threads
// neighbouring elements; packed weights, which no published model has there, are decoded row by row
// and scaled afterwards.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "formats/rows.h"
#include "kernels/cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float to_float(float value) { return value; }
__device__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ float to_float(__half value) { return __half2float(value); }

template <class T>
__global__ void gather(const T* weight, const int32_t* ids, int64_t k, float* y, int64_t y_stride) {
  const T* from = weight + ids[blockIdx.x] * k;
  float* to = y + blockIdx.x * y_stride;
  for (int64_t col = threadIdx.x; col < k; col += kThreads) to[col] = to_float(from[col]);
}

__global__ void scale_rows(float* y, int64_t y_stride, int64_t cols, float factor) {
  float* row = y + blockIdx.x * y_stride;
  for (int64_t col = threadIdx.x; col < cols; col += kThreads) row[col] *= factor;
}

template <class T>
void gather_plane(std::span<const int32_t> ids, const formats::PackedView& weight,
                  AnyMatrixView y) {
  const Vector<int32_t> rows(ids, y.device);
  gather<<<static_cast<unsigned>(ids.size()), kThreads, 0, stream_of(y.device)>>>(
      reinterpret_cast<const T*>(weight.plane(formats::PlaneRole::kCodes).data), rows.view().data,
      weight.k, static_cast<float*>(y.data), y.row_stride);
  check_launch();
}

void decode_each(std::span<const int32_t> ids, const formats::PackedView& weight, AnyMatrixView y) {
  for (size_t index = 0; index < ids.size(); ++index) {
    weight.format->device_codec->decode_rows(weight, ids[index],
                                             y.row_range(static_cast<int64_t>(index), 1));
  }
  const TensorView& global_scale = weight.plane(formats::PlaneRole::kGlobalScale);
  if (global_scale.data == nullptr) return;
  scale_rows<<<static_cast<unsigned>(y.rows), kThreads, 0, stream_of(y.device)>>>(
      static_cast<float*>(y.data), y.row_stride, y.cols, global_scale.as<float>()[0]);
  check_launch();
}

}  // namespace

void embed(std::span<const int32_t> ids, const formats::PackedView& weight, AnyMatrixView y) {
  if (ids.empty()) return;
  if (weight.format != &formats::kBf16Format) return decode_each(ids, weight, y);
  switch (weight.plane(formats::PlaneRole::kCodes).dtype) {
    case DType::kF32:
      return gather_plane<float>(ids, weight, y);
    case DType::kF16:
      return gather_plane<__half>(ids, weight, y);
    default:
      VERNIER_CHECK(weight.plane(formats::PlaneRole::kCodes).dtype == DType::kBF16);
      return gather_plane<__nv_bfloat16>(ids, weight, y);
  }
}

}  // namespace vernier::kernels::cuda
