// Depthwise causal convolution on the host: tokens in parallel, vectors of channels within a token.
#include <algorithm>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

// The weight as [taps, channels], so that a tap's weights are contiguous over channels.
std::vector<float> transposed(ConstMatrixView weight) {
  std::vector<float> taps(static_cast<size_t>(weight.rows * weight.cols));
  for (int64_t c = 0; c < weight.rows; ++c) {
    for (int64_t j = 0; j < weight.cols; ++j) taps[j * weight.rows + c] = weight.row(c)[j];
  }
  return taps;
}

// History becomes the last rows of (history, x). Rows move towards the front, so oldest first is
// safe.
void shift_history(ConstMatrixView x, MatrixView history) {
  for (int64_t row = 0; row < history.rows; ++row) {
    const int64_t source = row + x.rows;
    const auto from =
        source < history.rows ? ConstMatrixView(history).row(source) : x.row(source - history.rows);
    std::copy(from.begin(), from.end(), history.row(row).begin());
  }
}

}  // namespace

void causal_conv_silu(ConstMatrixView x, ConstMatrixView weight, std::span<const float> bias,
                      MatrixView history, MatrixView y) {
  const int64_t n_channels = x.cols;
  const int64_t n_taps = weight.cols;
  const std::vector<float> taps = transposed(weight);
  const std::vector<float> zeros(bias.empty() ? n_channels : 0);
  const float* initial = bias.empty() ? zeros.data() : bias.data();
#pragma omp parallel for schedule(static) if (x.rows * x.cols >= kMinParallelElems)
  for (int64_t t = 0; t < x.rows; ++t) {
    thread_local std::vector<const float*> inputs;
    inputs.resize(n_taps);
    for (int64_t j = 0; j < n_taps; ++j) {
      const int64_t source = t - n_taps + 1 + j;
      inputs[j] = source < 0 ? history.row(source + n_taps - 1).data() : x.row(source).data();
    }
    vec::conv_silu(inputs.data(), taps.data(), n_taps, initial, y.row(t).data(), n_channels);
  }
  shift_history(x, history);
}

}  // namespace vernier::kernels::cpu
