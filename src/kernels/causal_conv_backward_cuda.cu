// Gradient of the depthwise causal convolution with SiLU on a device, bound by memory: x and g_y
// are read once (the taps - 1 rows on either side of a run twice), g_x is written once.
//
// A sequence is cut into runs of 64 tokens. A thread owns 4 neighbouring channels of one run and
// slides two windows over its tokens, in registers: the last inputs, of which it makes the sum
// before the SiLU and so g_p, and the last g_p, of which it makes g_x taps - 1 tokens behind; for
// that it goes taps - 1 tokens beyond its run. It issues the reads of four tokens before it uses
// the first. 8 channels, 16 bytes of BF16, would need over 200 registers; neighbouring threads have
// neighbouring channels, so that a warp reads 256 bytes of a row. More than four taps, and rows
// that are not aligned, go by single channels.
//
// The weight's gradient of a run stays in registers and is left as a partial sum, which
// add_column_sums adds up: taps + 1 values for each 64 tokens of a channel.
//
// 16384 tokens x 10240 channels (Super) in BF16 at 3 TB/s: 0.34 ms of 1.0 GB, and 0.04 ms for
// partial sums where they are wanted.
//
// Error: taps + 1 roundings of a sum in FP32, a slope of SiLU of 10 roundings; the weight's
// gradient 64 roundings deep in a run.
#include <string>

#include "base/error.h"
#include "kernels/column_sums_cuda.h"
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/sequence_search_cuda.h"
#include "kernels/sigmoid.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kRunTokens = 64;
constexpr int kTokensInFlight = 4;
constexpr int kMaxSequences = 64;  // of one launch: the table travels with its arguments
constexpr int kMaxTaps = 8;
constexpr int kThreads = 128;

struct RunTable {
  struct Sequence {
    int64_t first_row;
    int64_t n_rows;
    int32_t first_run;  // runs of the sequences before
  };
  int32_t n_sequences = 0;
  int32_t n_runs = 0;
  Sequence sequences[kMaxSequences];
};

struct ConvGradient {
  const float* weight;  // [channels, taps]
  int64_t stride;
  const float* bias;  // or null
  int n_channels;
  int n_taps;
  float* parts;  // [runs, taps + 1, channels] of the gradients of weight and bias, or null
};

// The last kTaps inputs and g_p of some channels, newest last, and the weights that n_taps of them
// meet.
template <class T, int kChannels, int kTaps>
struct Windows {
  using Channels = Pack<T, kChannels>;
  const ConvGradient& conv;
  const int channel;
  float inputs[kTaps][kChannels] = {};
  float g_p[kTaps][kChannels] = {};
  float weights[kTaps][kChannels];
  float bias[kChannels];
  float g_weights[kTaps][kChannels] = {};
  float g_bias[kChannels] = {};

  __device__ Windows(const ConvGradient& conv, int channel) : conv(conv), channel(channel) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      bias[c] = conv.bias == nullptr ? 0.0f : conv.bias[channel + c];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        weights[j][c] = is_tap(j) ? conv.weight[(channel + c) * conv.stride + tap(j)] : 0.0f;
      }
    }
  }
  // Weights fill the end of the window.
  __device__ int tap(int j) const { return j - (kTaps - conv.n_taps); }
  __device__ bool is_tap(int j) const { return tap(j) >= 0; }

  __device__ void push_input(const Channels& pack) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
#pragma unroll
      for (int j = 0; j + 1 < kTaps; ++j) inputs[j][c] = inputs[j + 1][c];
      inputs[kTaps - 1][c] = static_cast<float>(pack.elems[c]);
    }
  }
  // g_p of the newest input.
  __device__ void push_gradient(const Channels& g_y) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      float sum = bias[c];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        if (is_tap(j)) sum = fmaf(weights[j][c], inputs[j][c], sum);
      }
      push_g_p(c, static_cast<float>(g_y.elems[c]) * silu_of(sum).slope);
    }
  }
  // Beyond the sequence's end.
  __device__ void push_no_gradient() {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) push_g_p(c, 0.0f);
  }
  __device__ void push_g_p(int c, float value) {
#pragma unroll
    for (int j = 0; j + 1 < kTaps; ++j) g_p[j][c] = g_p[j + 1][c];
    g_p[kTaps - 1][c] = value;
  }
  __device__ void add_to_sums() {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      g_bias[c] += g_p[kTaps - 1][c];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        g_weights[j][c] = fmaf(g_p[kTaps - 1][c], inputs[j][c], g_weights[j][c]);
      }
    }
  }
  // Of the token kTaps - 1 before the newest; the weight of tap j meets g_p of taps - 1 - j later.
  __device__ Channels g_x() const {
    Channels result;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        if (is_tap(j)) sum = fmaf(weights[j][c], g_p[kTaps - 1 - j][c], sum);
      }
      result.elems[c] = static_cast<T>(sum);
    }
    return result;
  }
  __device__ void store_sums(int64_t run) const {
    float* to = conv.parts + run * (conv.n_taps + 1) * conv.n_channels + channel;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      if (is_tap(j)) store_part(g_weights[j], to + int64_t{tap(j)} * conv.n_channels);
    }
    store_part(g_bias, to + int64_t{conv.n_taps} * conv.n_channels);
  }
  __device__ static void store_part(const float (&values)[kChannels], float* to) {
    Pack<float, kChannels> pack;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) pack.elems[c] = values[c];
    pack.store(to);
  }
};

template <class T, int kChannels, int kTaps>
__global__ void __launch_bounds__(kThreads, 4)
    convolve_backward(const __grid_constant__ RunTable table, const ConvGradient conv,
                      int64_t first_run, Rows<const T> x, Rows<const T> g_y, Rows<T> g_x) {
  using Channels = Pack<T, kChannels>;
  const int channel = (blockIdx.y * kThreads + threadIdx.x) * kChannels;
  if (channel >= conv.n_channels) return;
  const auto& sequence =
      find_sequence(table.sequences, table.n_sequences, &RunTable::Sequence::first_run, blockIdx.x);
  const int64_t first = sequence.first_row;
  const int64_t begin = int64_t{static_cast<int>(blockIdx.x) - sequence.first_run} * kRunTokens;
  const int64_t end = min(sequence.n_rows, begin + kRunTokens);
  Windows<T, kChannels, kTaps> windows(conv, channel);
#pragma unroll
  for (int j = 1; j < kTaps; ++j) {
    const int64_t row = begin - kTaps + j;
    if (row >= 0) windows.push_input(Channels::load(x.at(first + row, channel)));
  }

  for (int64_t next = begin; next < end + kTaps - 1; next += kTokensInFlight) {
    Channels inputs[kTokensInFlight];
    Channels gradients[kTokensInFlight];
#pragma unroll
    for (int i = 0; i < kTokensInFlight; ++i) {
      if (next + i >= sequence.n_rows) continue;
      inputs[i] = Channels::load(x.at(first + next + i, channel));
      gradients[i] = Channels::load(g_y.at(first + next + i, channel));
    }
#pragma unroll
    for (int i = 0; i < kTokensInFlight; ++i) {
      const int64_t token = next + i;
      if (token >= end + kTaps - 1) continue;
      if (token < sequence.n_rows) {
        windows.push_input(inputs[i]);
        windows.push_gradient(gradients[i]);
      } else {
        windows.push_no_gradient();
      }
      if (token < end) windows.add_to_sums();
      const int64_t done = token - (kTaps - 1);
      if (done >= begin) windows.g_x().store(g_x.at(first + done, channel));
    }
  }
  if (conv.parts != nullptr) windows.store_sums(first_run + blockIdx.x);
}

int64_t runs_of(const SequenceSpan& sequence) {
  return (sequence.n_rows + kRunTokens - 1) / kRunTokens;
}

// The sequences that have rows.
RunTable table_of(std::span<const SequenceSpan> sequences) {
  RunTable table;
  for (const SequenceSpan& sequence : sequences) {
    if (sequence.n_rows == 0) continue;
    table.sequences[table.n_sequences++] = {sequence.first_row, sequence.n_rows, table.n_runs};
    table.n_runs += static_cast<int32_t>(runs_of(sequence));
  }
  return table;
}

template <class T, int kChannels, int kTaps>
void launch(const RunTable& table, const ConvGradient& conv, int64_t first_run,
            ConstAnyMatrixView x, ConstAnyMatrixView g_y, AnyMatrixView g_x) {
  constexpr int kBlockChannels = kThreads * kChannels;
  const dim3 grid(static_cast<unsigned>(table.n_runs),
                  static_cast<unsigned>((conv.n_channels + kBlockChannels - 1) / kBlockChannels));
  convolve_backward<T, kChannels, kTaps><<<grid, kThreads, 0, stream_of(g_x.device)>>>(
      table, conv, first_run, rows_of<const T>(x), rows_of<const T>(g_y), rows_of<T>(g_x));
  check_launch();
}

template <class T>
void launch_for(const RunTable& table, const ConvGradient& conv, int64_t first_run,
                ConstAnyMatrixView x, ConstAnyMatrixView g_y, AnyMatrixView g_x) {
  constexpr int kPack = 4;
  const bool is_in_packs = has_packs(x, kPack) && has_packs(g_y, kPack) && has_packs(g_x, kPack);
  if (is_in_packs && conv.n_taps <= 4) {
    return launch<T, kPack, 4>(table, conv, first_run, x, g_y, g_x);
  }
  launch<T, 1, kMaxTaps>(table, conv, first_run, x, g_y, g_x);
}

void add_parts(const ConvGradient& conv, int64_t n_runs, AnyMatrixView g_weight,
               VectorView<float> g_bias, cudaStream_t stream) {
  const auto parts_of = [&](int64_t value) {
    const int64_t stride = int64_t{conv.n_taps + 1} * conv.n_channels;
    return PartialSums{conv.parts + value * conv.n_channels, n_runs, stride, conv.n_channels};
  };
  if (g_weight.data != nullptr) {
    for (int64_t tap = 0; tap < conv.n_taps; ++tap) {
      add_column_sums(parts_of(tap), g_weight.as<float>() + tap, g_weight.row_stride, stream);
    }
  }
  if (!g_bias.empty()) add_column_sums(parts_of(conv.n_taps), g_bias.data, 1, stream);
}

}  // namespace

void causal_conv_silu_backward(ConstAnyMatrixView x, ConstAnyMatrixView weight,
                               VectorView<const float> bias,
                               std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                               AnyMatrixView g_x, AnyMatrixView g_weight,
                               VectorView<float> g_bias) {
  if (weight.cols > kMaxTaps) {
    throw Error(ErrorKind::kUnsupported,
                "gradient of a causal convolution of " + std::to_string(weight.cols) +
                    " taps on a device: at most " + std::to_string(kMaxTaps) + " are supported");
  }
  int64_t n_runs = 0;
  for (const SequenceSpan& sequence : sequences) n_runs += runs_of(sequence);
  if (n_runs == 0 || x.cols == 0) return;
  const bool has_sums = g_weight.data != nullptr || !g_bias.empty();
  Vector<float> parts(has_sums ? n_runs * (weight.cols + 1) * x.cols : 0, x.device);
  const ConvGradient conv{weight.as<float>(),
                          weight.row_stride,
                          bias.data,
                          static_cast<int>(weight.rows),
                          static_cast<int>(weight.cols),
                          has_sums ? parts.view().data : nullptr};
  int64_t first_run = 0;
  for (size_t first = 0; first < sequences.size(); first += kMaxSequences) {
    const size_t n = std::min<size_t>(kMaxSequences, sequences.size() - first);
    const RunTable table = table_of(sequences.subspan(first, n));
    if (table.n_runs == 0) continue;
    with_element_type(x.dtype,
                      [&]<class T>(T) { launch_for<T>(table, conv, first_run, x, g_y, g_x); });
    first_run += table.n_runs;
  }
  if (has_sums) add_parts(conv, n_runs, g_weight, g_bias, stream_of(x.device));
}

}  // namespace vernier::kernels::cuda
