// The CUDA implementation of every op, as cpu.h is the host's. Callers use the ops' own headers,
// whose entry points check the arguments and come here. A build without CUDA has cuda_nocuda.cc
// instead.
#pragma once

#include "kernels/attention.h"
#include "kernels/attention_backward.h"
#include "kernels/causal_conv.h"
#include "kernels/elementwise.h"
#include "kernels/grouped_linear.h"
#include "kernels/linear.h"
#include "kernels/output_error.h"
#include "kernels/rms_norm.h"
#include "kernels/router.h"
#include "kernels/score.h"
#include "kernels/sequence_span.h"
#include "kernels/ssm_scan.h"
#include "kernels/ssm_scan_backward.h"

namespace vernier::kernels::cuda {

void rms_norm(ConstAnyMatrixView x, VectorView<const float> weight, float eps, AnyMatrixView y);
void gated_group_norm(ConstAnyMatrixView x, ConstAnyMatrixView gate, VectorView<const float> weight,
                      int64_t n_groups, float eps, AnyMatrixView y);
void rms_norm_backward(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                       ConstAnyMatrixView g_y, AnyMatrixView g_x, VectorView<float> g_weight);
void gated_group_norm_backward(ConstAnyMatrixView x, ConstAnyMatrixView gate,
                               VectorView<const float> weight, int64_t n_groups, float eps,
                               ConstAnyMatrixView g_y, AnyMatrixView g_x, AnyMatrixView g_gate,
                               VectorView<float> g_weight);
void rms_norm_encode(ConstAnyMatrixView x, VectorView<const float> weight, float eps,
                     const InputRule& rule, AnyMatrixView codes);

void squared_relu(AnyMatrixView x);
void softplus_dt(ConstAnyMatrixView raw, VectorView<const float> bias, float low, float high,
                 AnyMatrixView dt);
void gather_rows(ConstAnyMatrixView x, VectorView<const int32_t> rows, AnyMatrixView y);
void add(ConstAnyMatrixView x, AnyMatrixView y);
void accumulate_amax(ConstAnyMatrixView x, VectorView<float> amax);
void squared_relu_backward(ConstAnyMatrixView x, AnyMatrixView g);
void softplus_dt_backward(ConstAnyMatrixView raw, VectorView<const float> bias, float low,
                          float high, ConstAnyMatrixView g_dt, AnyMatrixView g_raw,
                          VectorView<float> g_bias);

void causal_conv_silu(ConstAnyMatrixView x, ConstAnyMatrixView weight, VectorView<const float> bias,
                      std::span<const ConvSequence> sequences, AnyMatrixView y);
void causal_conv_silu_backward(ConstAnyMatrixView x, ConstAnyMatrixView weight,
                               VectorView<const float> bias,
                               std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                               AnyMatrixView g_x, AnyMatrixView g_weight, VectorView<float> g_bias);

void ssm_scan_chunked(const SsmShape& shape, const SsmInputs& inputs,
                      std::span<const ScanSequence> sequences, AnyMatrixView y);
void ssm_scan_recurrent(const SsmShape& shape, const SsmInputs& inputs,
                        std::span<const ScanSequence> sequences, AnyMatrixView y);
void ssm_scan_backward(const SsmShape& shape, const SsmInputs& inputs,
                       std::span<const SequenceSpan> sequences, ConstAnyMatrixView g_y,
                       const SsmGradients& gradients);

void causal_attention(const AttentionShape& shape, ConstAnyMatrixView q,
                      std::span<const AttentionSequence> sequences, AnyMatrixView y);
void causal_attention_backward(const AttentionBackward& op,
                               std::span<const SequenceSpan> sequences);

Routing route(const RouterShape& shape, ConstAnyMatrixView logits,
              VectorView<const float> correction_bias);
ExpertGroups group_by_expert(const Routing& routing, int64_t n_experts);
void combine_experts(ConstAnyMatrixView outputs, int64_t first, const ExpertGroups& groups,
                     const Routing& routing, AnyMatrixView r);
void combine_experts_backward(ConstAnyMatrixView g_r, int64_t first, const ExpertGroups& groups,
                              const Routing& routing, ConstAnyMatrixView outputs,
                              AnyMatrixView g_outputs, VectorView<float> g_weights);
void gather_rows_backward(ConstAnyMatrixView g_y, int64_t first, const ExpertGroups& groups,
                          int64_t top_k, AnyMatrixView g_x);
void route_backward(const RouterShape& shape, ConstAnyMatrixView logits, const Routing& routing,
                    VectorView<const float> g_weights, AnyMatrixView g_logits);

void linear(ConstAnyMatrixView x, const formats::PackedView& weight, const InputRule& rule,
            formats::InputMap map, AnyMatrixView y);
std::optional<InputCodes> input_codes(const formats::PackedView& weight, const InputRule& rule,
                                      int64_t n_tokens);
void linear_of_codes(ConstAnyMatrixView codes, const formats::PackedView& weight,
                     const InputRule& rule, AnyMatrixView y);
void linear(ConstAnyMatrixView x, ConstAnyMatrixView weight, AnyMatrixView y);
void grouped_linear(ConstAnyMatrixView x, std::span<const int64_t> begin,
                    std::span<const GroupWeight> groups, formats::InputMap map, AnyMatrixView y);
void linear_input_gradient(ConstAnyMatrixView g_y, const formats::PackedView& weight,
                           AnyMatrixView g_x);
void linear_input_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView weight, AnyMatrixView g_x);
void grouped_input_gradient(ConstAnyMatrixView g_y, std::span<const int64_t> begin,
                            std::span<const GroupWeight> groups, AnyMatrixView g_x);
void linear_weight_gradient(ConstAnyMatrixView g_y, ConstAnyMatrixView x, AnyMatrixView g_weight);
void embed(std::span<const int32_t> ids, const formats::PackedView& weight, AnyMatrixView y);

void output_error(ConstAnyMatrixView y, ConstAnyMatrixView moved, ConstAnyMatrixView g_squares,
                  ConstAnyMatrixView g_dots, VectorView<float> squares, VectorView<float> dots);

void score_logits(ConstAnyMatrixView base, ConstAnyMatrixView logits,
                  std::span<const int32_t> targets, std::span<TokenScore> scores);

void cross_entropy_gradient(ConstAnyMatrixView logits, std::span<const int32_t> targets,
                            float scale, AnyMatrixView g_logits);
void fisher_probe(ConstAnyMatrixView logits, uint64_t seed, uint64_t first_token, float scale,
                  AnyMatrixView g_logits);
void kl_gradient(ConstAnyMatrixView teacher_logits, ConstAnyMatrixView logits, float scale,
                 AnyMatrixView g_logits);

}  // namespace vernier::kernels::cuda
