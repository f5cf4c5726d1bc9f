// The host implementation of every op: FP32, one sequence at a time. Callers use the ops' own
// headers, whose entry points check the arguments and come here.
#pragma once

#include "kernels/attention.h"
#include "kernels/attention_backward.h"
#include "kernels/host_scan.h"
#include "kernels/host_scan_backward.h"
#include "kernels/linear.h"
#include "kernels/log_softmax.h"
#include "kernels/output_error.h"
#include "kernels/router.h"
#include "kernels/score.h"
#include "kernels/ssm_scan.h"

namespace vernier::kernels::cpu {

// Elements of work below which waking other threads costs more than they save.
inline constexpr int64_t kMinParallelElems = 1 << 14;

void rms_norm(ConstMatrixView x, std::span<const float> weight, float eps, MatrixView y);
void gated_group_norm(ConstMatrixView x, ConstMatrixView gate, std::span<const float> weight,
                      int64_t n_groups, float eps, MatrixView y);
void rms_norm_backward(ConstMatrixView x, std::span<const float> weight, float eps,
                       ConstMatrixView g_y, MatrixView g_x, std::span<float> g_weight);
void gated_group_norm_backward(ConstMatrixView x, ConstMatrixView gate,
                               std::span<const float> weight, int64_t n_groups, float eps,
                               ConstMatrixView g_y, MatrixView g_x, MatrixView g_gate,
                               std::span<float> g_weight);

void squared_relu(MatrixView x);
void softplus_dt(ConstMatrixView raw, std::span<const float> bias, float low, float high,
                 MatrixView dt);
void gather_rows(ConstMatrixView x, std::span<const int32_t> rows, MatrixView y);
void add(ConstMatrixView x, MatrixView y);
// max(amax, max |x|), compared as bit patterns.
float larger_amax(float amax, ConstMatrixView x);
void round_input(const formats::Format& format, float scale, MatrixView x);
void squared_relu_backward(ConstMatrixView x, MatrixView g);
void softplus_dt_backward(ConstMatrixView raw, std::span<const float> bias, float low, float high,
                          ConstMatrixView g_dt, MatrixView g_raw, std::span<float> g_bias);

void causal_conv_silu(ConstMatrixView x, ConstMatrixView weight, std::span<const float> bias,
                      MatrixView history, MatrixView y);
void causal_conv_silu_backward(ConstMatrixView x, ConstMatrixView weight,
                               std::span<const float> bias, ConstMatrixView g_y, MatrixView g_x,
                               MatrixView g_weight, std::span<float> g_bias);

void ssm_scan_chunked(const SsmShape& shape, const HostScanInputs& inputs, MatrixView state,
                      MatrixView y);
void ssm_scan_recurrent(const SsmShape& shape, const HostScanInputs& inputs, MatrixView state,
                        MatrixView y);
void ssm_scan_backward(const SsmShape& shape, const HostScanInputs& inputs, ConstMatrixView g_y,
                       const HostScanGradients& gradients);

void causal_attention(const AttentionShape& shape, ConstMatrixView q, ConstMatrixView k,
                      ConstMatrixView v, int64_t first_position, MatrixView y);
void causal_attention_backward(const AttentionBackward& op,
                               std::span<const SequenceSpan> sequences);

Routing route(const RouterShape& shape, ConstMatrixView logits,
              std::span<const float> correction_bias);
ExpertGroups group_by_expert(const Routing& routing, int64_t n_experts);
void combine_experts(ConstMatrixView outputs, int64_t first, const ExpertGroups& groups,
                     const Routing& routing, MatrixView r);
void combine_experts_backward(ConstMatrixView g_r, int64_t first, const ExpertGroups& groups,
                              const Routing& routing, ConstMatrixView outputs, MatrixView g_outputs,
                              std::span<float> g_weights);
void gather_rows_backward(ConstMatrixView g_y, int64_t first, const ExpertGroups& groups,
                          int64_t top_k, MatrixView g_x);
void route_backward(const RouterShape& shape, ConstMatrixView logits, const Routing& routing,
                    std::span<const float> g_weights, MatrixView g_logits);

void linear(ConstMatrixView x, const formats::PackedView& weight, MatrixView y);
void linear(ConstMatrixView x, ConstMatrixView weight, MatrixView y);
void linear_input_gradient(ConstMatrixView g_y, const formats::PackedView& weight, MatrixView g_x);
void linear_input_gradient(ConstMatrixView g_y, ConstMatrixView weight, MatrixView g_x);
void linear_weight_gradient(ConstMatrixView g_y, ConstMatrixView x, MatrixView g_weight);
void embed(std::span<const int32_t> ids, const formats::PackedView& weight, MatrixView y);

void output_error(ConstMatrixView y, ConstMatrixView moved, ConstMatrixView g_squares,
                  ConstMatrixView g_dots, std::span<float> squares, std::span<float> dots);

void score_logits(ConstMatrixView base, ConstMatrixView logits, std::span<const int32_t> targets,
                  std::span<TokenScore> scores);
double log_sum_exp(std::span<const float> logits);
double kl_divergence(std::span<const float> p_logits, std::span<const float> q_logits);
int64_t argmax(std::span<const float> values);

void cross_entropy_gradient(ConstMatrixView logits, std::span<const int32_t> targets, float scale,
                            MatrixView g_logits);
void fisher_probe(ConstMatrixView logits, uint64_t seed, uint64_t first_token, float scale,
                  MatrixView g_logits);
void kl_gradient(ConstMatrixView teacher_logits, ConstMatrixView logits, float scale,
                 MatrixView g_logits);

}  // namespace vernier::kernels::cpu
