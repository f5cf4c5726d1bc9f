// One warp a token, lanes striding over the channels: four reads of each element, a fixed order of
// sums. Bandwidth bound: 8 bytes an element in BF16.
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 8;

__device__ float warp_sum(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(0xFFFFFFFFu, value, step);
  }
  return value;
}

template <class Y, class G, class H>
struct Operands {
  Rows<const Y> y, moved;
  Rows<const G> g_squares;
  Rows<const H> g_dots;
};

template <class Y, class G, class H>
__global__ void output_error_kernel(Operands<Y, G, H> in, int64_t n_rows, int64_t n_cols,
                                    float* squares, float* dots) {
  const int64_t t = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (t >= n_rows) return;
  float square = 0;
  float dot = 0;
  for (int64_t k = threadIdx.x % kWarp; k < n_cols; k += kWarp) {
    const float d = static_cast<float>(*in.moved.at(t, k)) - static_cast<float>(*in.y.at(t, k));
    if (in.g_squares.data != nullptr) {
      const float weighted = static_cast<float>(*in.g_squares.at(t, k)) * d;
      square += weighted * weighted;
    }
    if (in.g_dots.data != nullptr) dot += static_cast<float>(*in.g_dots.at(t, k)) * d;
  }
  square = warp_sum(square);
  dot = warp_sum(dot);
  if (threadIdx.x % kWarp != 0) return;
  if (in.g_squares.data != nullptr) squares[t] += square;
  if (in.g_dots.data != nullptr) dots[t] += dot;
}

}  // namespace

void output_error(ConstAnyMatrixView y, ConstAnyMatrixView moved, ConstAnyMatrixView g_squares,
                  ConstAnyMatrixView g_dots, VectorView<float> squares, VectorView<float> dots) {
  if (y.rows == 0) return;
  const auto n_blocks = static_cast<unsigned>((y.rows + kWarps - 1) / kWarps);
  with_element_type(y.dtype, [&](auto y_type) {
    with_element_type(g_squares.dtype, [&](auto g_type) {
      with_element_type(g_dots.dtype, [&](auto h_type) {
        using Y = decltype(y_type);
        using G = decltype(g_type);
        using H = decltype(h_type);
        const Operands<Y, G, H> in{rows_of<const Y>(y), rows_of<const Y>(moved),
                                   rows_of<const G>(g_squares), rows_of<const H>(g_dots)};
        output_error_kernel<<<n_blocks, kWarps * kWarp, 0, stream_of(y.device)>>>(
            in, y.rows, y.cols, squares.data, dots.data);
      });
    });
  });
  check_launch();
}

}  // namespace vernier::kernels::cuda
