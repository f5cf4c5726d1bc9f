// Vector primitives of the CPU ops: the one place that knows the instruction set, which is picked
// at run time. Rows are contiguous and need no alignment. All run on the calling thread, in a fixed
// order of reduction for a given instruction set and length; NaN in gives NaN out.
#pragma once

#include <cstdint>

namespace vernier::kernels::vec {

// The largest of x; -inf when n is 0. NaN may be passed over.
float max(const float* x, int64_t n);

float sum_squares(const float* x, int64_t n);

// y = exp(x - shift); returns the sum of y. Error of an exponential: 2 ulp, and results below the
// smallest normal number may be flushed to zero. y may be x.
float exp_minus(const float* x, float shift, float* y, int64_t n);

// sum(exp(x - shift)): FP32 exponentials, summed in double.
double sum_exp(const float* x, float shift, int64_t n);

// sum(exp(p - p_max)) and sum(exp(p - p_max) * ((p - p_max) - (q - q_max))), all but the
// exponential in double. Where the exponential is zero the second term is, whatever q.
struct ExpSums {
  double sum;
  double weighted;
};
ExpSums sum_exp_times_difference(const float* p, float p_max, const float* q, float q_max,
                                 int64_t n);

// y[c] = silu(bias[c] + sum_j taps[j * n + c] * inputs[j][c]), silu(v) = v / (1 + exp(-v)).
void conv_silu(const float* const* inputs, const float* taps, int64_t n_taps, const float* bias,
               float* y, int64_t n);

// y = x * silu(gate). y may be x.
void multiply_silu(const float* x, const float* gate, float* y, int64_t n);

// Rows of one length n, `stride` elements apart.
struct Rows {
  const float* data;
  int64_t stride;
  int64_t n_rows;
};

// y[j * y_stride + i] = w[i] . x[j]: a product for few rows of x, in which w is read once for each
// four.
void dots(Rows w, Rows x, int64_t n, float* y, int64_t y_stride);

// One token of one head's recurrence: state = decay * state + dt x (outer) b; y = state c + skip *
// x. state: [head_dim, state_dim], contiguous. x, y: [head_dim]. b, c: [state_dim].
struct SsmStep {
  int64_t head_dim;
  int64_t state_dim;
  float decay;
  float dt;
  float skip;
  const float* x;
  const float* b;
  const float* c;
};
void ssm_step(const SsmStep& step, float* state, int64_t state_stride, float* y);

}  // namespace vernier::kernels::vec
