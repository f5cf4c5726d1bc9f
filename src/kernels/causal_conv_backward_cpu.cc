// Gradient of the depthwise causal convolution on the host. Blocks of 64 channels run in parallel,
// each over its whole sequence, so that the sums over tokens have one order; they are in double,
// since sequences are long.
#include <algorithm>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/vec.h"

namespace vernier::kernels::cpu {
namespace {

constexpr int64_t kBlockChannels = 64;

// Channels [first, first + n) of one sequence.
struct ChannelBlock {
  ConstMatrixView x;       // [tokens, n]
  ConstMatrixView weight;  // [n, taps]
  const float* bias;       // or null
  ConstMatrixView g_y;
  MatrixView g_x;
  std::vector<float> taps;      // the weight transposed: channels side by side
  std::vector<float> g_p;       // [tokens, n]
  std::vector<float> pre_silu;  // of one token
  std::vector<float> exp_minus;

  int64_t n() const { return x.cols; }
  const float* tap_row(int64_t j) const { return taps.data() + j * n(); }
  float* g_p_row(int64_t t) { return g_p.data() + t * n(); }

  // Calls body(tap, token) for the taps of token t that meet an input of the sequence.
  template <class Body>
  void for_each_input(int64_t t, Body body) const {
    const int64_t n_taps = weight.cols;
    for (int64_t j = std::max<int64_t>(0, n_taps - 1 - t); j < n_taps; ++j) {
      body(j, t - n_taps + 1 + j);
    }
  }

  void find_g_p() {
    g_p.resize(static_cast<size_t>(x.rows * n()));
    pre_silu.resize(static_cast<size_t>(n()));
    exp_minus.resize(static_cast<size_t>(n()));
    taps.resize(static_cast<size_t>(weight.cols * n()));
    for (int64_t j = 0; j < weight.cols; ++j) {
      for (int64_t c = 0; c < n(); ++c) taps[j * n() + c] = weight.row(c)[j];
    }
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t c = 0; c < n(); ++c) pre_silu[c] = bias == nullptr ? 0.0f : bias[c];
      for_each_input(t, [&](int64_t j, int64_t source) {
        const float* from = x.row(source).data();
        const float* tap = tap_row(j);
        for (int64_t c = 0; c < n(); ++c) pre_silu[c] += tap[c] * from[c];
      });
      multiply_slope(g_y.row(t).data(), g_p_row(t));
    }
  }

  // to = g times the slope of silu at pre_silu, sig (1 + p (1 - sig)).
  void multiply_slope(const float* g, float* to) {
    for (int64_t c = 0; c < n(); ++c) exp_minus[c] = -pre_silu[c];
    vec::exp_minus(exp_minus.data(), 0, exp_minus.data(), n());
    for (int64_t c = 0; c < n(); ++c) {
      const float sigmoid = 1 / (1 + exp_minus[c]);
      to[c] = g[c] * (sigmoid * (1 + pre_silu[c] * (1 - sigmoid)));
    }
  }

  void find_g_x() {
    const int64_t n_taps = weight.cols;
    for (int64_t s = 0; s < x.rows; ++s) {
      float* to = g_x.row(s).data();
      std::fill_n(to, n(), 0.0f);
      for (int64_t j = n_taps - 1; j >= 0 && s + n_taps - 1 - j < x.rows; --j) {
        const float* g = g_p_row(s + n_taps - 1 - j);
        const float* tap = tap_row(j);
        for (int64_t c = 0; c < n(); ++c) to[c] += tap[c] * g[c];
      }
    }
  }

  void add_g_weight(MatrixView g_weight) {
    const int64_t n_taps = weight.cols;
    std::vector<double> sums(static_cast<size_t>(n_taps * n()));
    for (int64_t t = 0; t < x.rows; ++t) {
      for_each_input(t, [&](int64_t j, int64_t source) {
        const float* from = x.row(source).data();
        double* to = sums.data() + j * n();
        for (int64_t c = 0; c < n(); ++c) to[c] += double{g_p_row(t)[c]} * from[c];
      });
    }
    for (int64_t c = 0; c < n(); ++c) {
      for (int64_t j = 0; j < n_taps; ++j) {
        g_weight.row(c)[j] += static_cast<float>(sums[j * n() + c]);
      }
    }
  }

  void add_g_bias(float* g_bias) {
    std::vector<double> sums(static_cast<size_t>(n()));
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t c = 0; c < n(); ++c) sums[c] += g_p_row(t)[c];
    }
    for (int64_t c = 0; c < n(); ++c) g_bias[c] += static_cast<float>(sums[c]);
  }
};

}  // namespace

void causal_conv_silu_backward(ConstMatrixView x, ConstMatrixView weight,
                               std::span<const float> bias, ConstMatrixView g_y, MatrixView g_x,
                               MatrixView g_weight, std::span<float> g_bias) {
  const int64_t n_blocks = (x.cols + kBlockChannels - 1) / kBlockChannels;
#pragma omp parallel for schedule(static) if (x.rows * x.cols >= kMinParallelElems)
  for (int64_t index = 0; index < n_blocks; ++index) {
    const int64_t first = index * kBlockChannels;
    const int64_t n = std::min(kBlockChannels, x.cols - first);
    ChannelBlock block{.x = x.col_range(first, n),
                       .weight = weight.row_range(first, n),
                       .bias = bias.empty() ? nullptr : bias.data() + first,
                       .g_y = g_y.col_range(first, n),
                       .g_x = g_x.col_range(first, n),
                       .g_p = {},
                       .pre_silu = {}};
    block.find_g_p();
    block.find_g_x();
    if (g_weight.data != nullptr) block.add_g_weight(g_weight.row_range(first, n));
    if (!g_bias.empty()) block.add_g_bias(g_bias.data() + first);
  }
}

}  // namespace vernier::kernels::cpu
