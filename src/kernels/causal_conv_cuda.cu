// Depthwise causal convolution with SiLU on a device, bound by memory: x is read once (the first
// taps - 1 rows of a run twice), y is written once.
//
// A sequence is cut into runs of 32 tokens. A thread owns 16 bytes of neighbouring channels of one
// run and slides the window of their last taps over its tokens, in registers, with the weights; it
// issues the reads of four tokens before it uses the first. Neighbouring threads have neighbouring
// channels, so that a warp reads 512 bytes of a row. More than four taps, and rows that are not
// aligned, go by single channels.
//
// The history is read by a sequence's first run. Where that is its last run as well (decoding), the
// same threads write the new history; longer sequences leave it to a second kernel.
//
// 16384 tokens at 3 TB/s in BF16: 0.13 ms of 403 MB (Nano, 6144 channels), 0.22 ms of 671 MB
// (Super, 10240).
//
// Error: taps + 1 roundings of a sum in FP32, a SiLU of 5 ulp. The order is that of the taps
// wherever a sequence is cut, so that cutting changes no bit.
#include <string>

#include "base/error.h"
#include "kernels/cuda.h"
#include "kernels/packs_cuda.h"
#include "kernels/sequence_search_cuda.h"
#include "kernels/silu_cuda.h"
#include "tensor/device_cuda.h"

namespace vernier::kernels::cuda {
namespace {

constexpr int kRunTokens = 32;
constexpr int kTokensInFlight = 4;
constexpr int kMaxSequences = 64;  // of one launch: the table travels with its arguments
constexpr int kMaxTaps = 8;
constexpr int kThreads = 128;

struct ConvTable {
  struct Sequence {
    int64_t first_row;
    int64_t n_rows;
    void* history;
    int64_t history_stride;
    int32_t first_run;  // runs of the sequences before
  };
  int32_t n_sequences = 0;
  int32_t n_runs = 0;
  Sequence sequences[kMaxSequences];
};

struct ConvWeights {
  const float* weight;  // [channels, taps]
  int64_t stride;
  const float* bias;  // or null
  int n_channels;
  int n_taps;
};

// Some channels of a sequence's inputs, the history before row 0.
template <class T, int kChannels>
struct Inputs {
  Rows<const T> x;  // from the sequence's first row
  Rows<T> history;
  int n_history;
  int channel;

  // Rows before the history are zeros that no tap sees.
  __device__ Pack<T, kChannels> row(int64_t index) const {
    if (index >= 0) return Pack<T, kChannels>::load(x.at(index, channel));
    if (index >= -n_history) {
      return Pack<T, kChannels>::load(history.at(index + n_history, channel));
    }
    return {};
  }
};

// The last kTaps inputs of some channels, of which n_taps meet weights; newest last.
template <class T, int kChannels, int kTaps>
struct Window {
  using Inputs = Pack<T, kChannels>;
  float inputs[kTaps][kChannels];
  float weights[kTaps][kChannels];
  float bias[kChannels];

  __device__ void load_weights(const ConvWeights& from, int channel) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      bias[c] = from.bias == nullptr ? 0.0f : from.bias[channel + c];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        const int tap = j - (kTaps - from.n_taps);
        weights[j][c] = tap < 0 ? 0.0f : from.weight[(channel + c) * from.stride + tap];
      }
    }
  }
  __device__ void push(const Inputs& pack) {
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
#pragma unroll
      for (int j = 0; j + 1 < kTaps; ++j) inputs[j][c] = inputs[j + 1][c];
      inputs[kTaps - 1][c] = static_cast<float>(pack.elems[c]);
    }
  }
  __device__ Inputs convolved(int n_taps) const {
    Inputs result;
#pragma unroll
    for (int c = 0; c < kChannels; ++c) {
      float sum = bias[c];
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        if (j >= kTaps - n_taps) sum = fmaf(weights[j][c], inputs[j][c], sum);
      }
      result.elems[c] = static_cast<T>(silu(sum));
    }
    return result;
  }
  // The last n_taps - 1 inputs. Conversion back is exact.
  __device__ void store_history(const Rows<T>& history, int n_taps, int channel) const {
#pragma unroll
    for (int j = 1; j < kTaps; ++j) {
      const int row = j - 1 - (kTaps - n_taps);
      if (row < 0) continue;
      Inputs pack;
#pragma unroll
      for (int c = 0; c < kChannels; ++c) pack.elems[c] = static_cast<T>(inputs[j][c]);
      pack.store(history.at(row, channel));
    }
  }
};

template <class T, int kChannels, int kTaps>
__global__ void __launch_bounds__(kThreads)
    convolve(const __grid_constant__ ConvTable table, const ConvWeights weights, Rows<const T> x,
             Rows<T> y) {
  const int channel = (blockIdx.y * kThreads + threadIdx.x) * kChannels;
  if (channel >= weights.n_channels) return;
  const auto& sequence = find_sequence(table.sequences, table.n_sequences,
                                       &ConvTable::Sequence::first_run, blockIdx.x);
  const int64_t begin = int64_t{static_cast<int>(blockIdx.x) - sequence.first_run} * kRunTokens;
  const int n_tokens =
      static_cast<int>(min(static_cast<int64_t>(kRunTokens), sequence.n_rows - begin));
  const Inputs<T, kChannels> inputs{{x.at(sequence.first_row, 0), x.stride},
                                    {static_cast<T*>(sequence.history), sequence.history_stride},
                                    weights.n_taps - 1,
                                    channel};
  Window<T, kChannels, kTaps> window;
#pragma unroll
  for (int j = 0; j < kTaps - 1; ++j) window.push(inputs.row(begin - (kTaps - 1) + j));
  window.load_weights(weights, channel);

  for (int first = 0; first < n_tokens; first += kTokensInFlight) {
    Pack<T, kChannels> read[kTokensInFlight];
#pragma unroll
    for (int i = 0; i < kTokensInFlight; ++i) {
      if (first + i < n_tokens) read[i] = inputs.row(begin + first + i);
    }
#pragma unroll
    for (int i = 0; i < kTokensInFlight; ++i) {
      if (first + i >= n_tokens) continue;
      window.push(read[i]);
      window.convolved(weights.n_taps).store(y.at(sequence.first_row + begin + first + i, channel));
    }
  }
  if (sequence.n_rows <= kRunTokens) window.store_history(inputs.history, weights.n_taps, channel);
}

// The new history of sequences of several runs, which are longer than any history.
template <class T, int kChannels>
__global__ void __launch_bounds__(kThreads)
    keep_history(const __grid_constant__ ConvTable table, int n_channels, int n_history,
                 Rows<const T> x) {
  const int channel = (blockIdx.y * kThreads + threadIdx.x) * kChannels;
  const auto& sequence = table.sequences[blockIdx.x];
  if (channel >= n_channels || sequence.n_rows <= kRunTokens) return;
  const int64_t first_row = sequence.first_row + sequence.n_rows - n_history;
  const Rows<T> history{static_cast<T*>(sequence.history), sequence.history_stride};
  for (int row = 0; row < n_history; ++row) {
    Pack<T, kChannels>::load(x.at(first_row + row, channel)).store(history.at(row, channel));
  }
}

// The sequences that have rows.
ConvTable table_of(std::span<const ConvSequence> sequences) {
  ConvTable table;
  for (const ConvSequence& sequence : sequences) {
    if (sequence.n_rows == 0) continue;
    table.sequences[table.n_sequences++] = {sequence.first_row, sequence.n_rows,
                                            sequence.history.data, sequence.history.row_stride,
                                            table.n_runs};
    table.n_runs += static_cast<int32_t>((sequence.n_rows + kRunTokens - 1) / kRunTokens);
  }
  return table;
}

template <class T, int kChannels, int kTaps>
void launch(const ConvTable& table, const ConvWeights& weights, ConstAnyMatrixView x,
            AnyMatrixView y) {
  constexpr int kBlockChannels = kThreads * kChannels;
  const auto n_channel_blocks =
      static_cast<unsigned>((weights.n_channels + kBlockChannels - 1) / kBlockChannels);
  const auto grid = [&](int n) { return dim3(static_cast<unsigned>(n), n_channel_blocks); };
  const cudaStream_t stream = stream_of(y.device);
  convolve<T, kChannels, kTaps><<<grid(table.n_runs), kThreads, 0, stream>>>(
      table, weights, rows_of<const T>(x), rows_of<T>(y));
  check_launch();
  if (table.n_runs == table.n_sequences || weights.n_taps == 1) return;
  keep_history<T, kChannels><<<grid(table.n_sequences), kThreads, 0, stream>>>(
      table, weights.n_channels, weights.n_taps - 1, rows_of<const T>(x));
  check_launch();
}

template <class T>
void launch_for(const ConvTable& table, const ConvWeights& weights, bool is_in_packs,
                ConstAnyMatrixView x, AnyMatrixView y) {
  constexpr int kPack = 16 / static_cast<int>(sizeof(T));
  if (is_in_packs && weights.n_taps <= 4) return launch<T, kPack, 4>(table, weights, x, y);
  launch<T, 1, kMaxTaps>(table, weights, x, y);
}

}  // namespace

void causal_conv_silu(ConstAnyMatrixView x, ConstAnyMatrixView weight, VectorView<const float> bias,
                      std::span<const ConvSequence> sequences, AnyMatrixView y) {
  if (weight.cols > kMaxTaps) {
    throw Error(ErrorKind::kUnsupported, "causal convolution of " + std::to_string(weight.cols) +
                                             " taps on a device: at most " +
                                             std::to_string(kMaxTaps) + " are supported");
  }
  const ConvWeights weights{weight.as<float>(), weight.row_stride, bias.data,
                            static_cast<int>(weight.rows), static_cast<int>(weight.cols)};
  const int64_t pack = 16 / x.elem_bytes();
  bool is_in_packs = has_packs(x, pack) && has_packs(y, pack);
  for (const ConvSequence& sequence : sequences) {
    is_in_packs = is_in_packs && has_packs(sequence.history, pack);
  }
  for (size_t first = 0; first < sequences.size(); first += kMaxSequences) {
    const size_t n = std::min<size_t>(kMaxSequences, sequences.size() - first);
    const ConvTable table = table_of(sequences.subspan(first, n));
    if (table.n_runs == 0 || weights.n_channels == 0) continue;
    with_element_type(x.dtype,
                      [&]<class T>(T) { launch_for<T>(table, weights, is_in_packs, x, y); });
  }
}

}  // namespace vernier::kernels::cuda
