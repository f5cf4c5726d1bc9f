// A build without CUDA: no matrix lives on a device, so none of this can be reached; open_device
// has said so before.
#include "kernels/cuda.h"

#include "base/check.h"

namespace vernier::kernels::cuda {

void rms_norm(ConstAnyMatrixView, VectorView<const float>, float, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void gated_group_norm(ConstAnyMatrixView, ConstAnyMatrixView, VectorView<const float>, int64_t,
                      float, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void rms_norm_backward(ConstAnyMatrixView, VectorView<const float>, float, ConstAnyMatrixView,
                       AnyMatrixView, VectorView<float>) {
  VERNIER_CHECK(false);
}
void gated_group_norm_backward(ConstAnyMatrixView, ConstAnyMatrixView, VectorView<const float>,
                               int64_t, float, ConstAnyMatrixView, AnyMatrixView, AnyMatrixView,
                               VectorView<float>) {
  VERNIER_CHECK(false);
}
void rms_norm_encode(ConstAnyMatrixView, VectorView<const float>, float, const InputRule&,
                     AnyMatrixView) {
  VERNIER_CHECK(false);
}
void squared_relu(AnyMatrixView) { VERNIER_CHECK(false); }
void softplus_dt(ConstAnyMatrixView, VectorView<const float>, float, float, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void gather_rows(ConstAnyMatrixView, VectorView<const int32_t>, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void add(ConstAnyMatrixView, AnyMatrixView) { VERNIER_CHECK(false); }
void accumulate_amax(ConstAnyMatrixView, VectorView<float>) { VERNIER_CHECK(false); }
void squared_relu_backward(ConstAnyMatrixView, AnyMatrixView) { VERNIER_CHECK(false); }
void softplus_dt_backward(ConstAnyMatrixView, VectorView<const float>, float, float,
                          ConstAnyMatrixView, AnyMatrixView, VectorView<float>) {
  VERNIER_CHECK(false);
}
void causal_conv_silu(ConstAnyMatrixView, ConstAnyMatrixView, VectorView<const float>,
                      std::span<const ConvSequence>, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void causal_conv_silu_backward(ConstAnyMatrixView, ConstAnyMatrixView, VectorView<const float>,
                               std::span<const SequenceSpan>, ConstAnyMatrixView, AnyMatrixView,
                               AnyMatrixView, VectorView<float>) {
  VERNIER_CHECK(false);
}
void ssm_scan_chunked(const SsmShape&, const SsmInputs&, std::span<const ScanSequence>,
                      AnyMatrixView) {
  VERNIER_CHECK(false);
}
void ssm_scan_recurrent(const SsmShape&, const SsmInputs&, std::span<const ScanSequence>,
                        AnyMatrixView) {
  VERNIER_CHECK(false);
}
void ssm_scan_backward(const SsmShape&, const SsmInputs&, std::span<const SequenceSpan>,
                       ConstAnyMatrixView, const SsmGradients&) {
  VERNIER_CHECK(false);
}
void causal_attention(const AttentionShape&, ConstAnyMatrixView, std::span<const AttentionSequence>,
                      AnyMatrixView) {
  VERNIER_CHECK(false);
}
void causal_attention_backward(const AttentionBackward&, std::span<const SequenceSpan>) {
  VERNIER_CHECK(false);
}
Routing route(const RouterShape&, ConstAnyMatrixView, VectorView<const float>) {
  VERNIER_CHECK(false);
}
ExpertGroups group_by_expert(const Routing&, int64_t) { VERNIER_CHECK(false); }
void combine_experts(ConstAnyMatrixView, int64_t, const ExpertGroups&, const Routing&,
                     AnyMatrixView) {
  VERNIER_CHECK(false);
}
void combine_experts_backward(ConstAnyMatrixView, int64_t, const ExpertGroups&, const Routing&,
                              ConstAnyMatrixView, AnyMatrixView, VectorView<float>) {
  VERNIER_CHECK(false);
}
void gather_rows_backward(ConstAnyMatrixView, int64_t, const ExpertGroups&, int64_t,
                          AnyMatrixView) {
  VERNIER_CHECK(false);
}
void route_backward(const RouterShape&, ConstAnyMatrixView, const Routing&, VectorView<const float>,
                    AnyMatrixView) {
  VERNIER_CHECK(false);
}
void linear(ConstAnyMatrixView, const formats::PackedView&, const InputRule&, formats::InputMap,
            AnyMatrixView) {
  VERNIER_CHECK(false);
}
std::optional<InputCodes> input_codes(const formats::PackedView&, const InputRule&, int64_t) {
  VERNIER_CHECK(false);
}
void linear_of_codes(ConstAnyMatrixView, const formats::PackedView&, const InputRule&,
                     AnyMatrixView) {
  VERNIER_CHECK(false);
}
void linear(ConstAnyMatrixView, ConstAnyMatrixView, AnyMatrixView) { VERNIER_CHECK(false); }
void grouped_linear(ConstAnyMatrixView, std::span<const int64_t>, std::span<const GroupWeight>,
                    formats::InputMap, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void linear_input_gradient(ConstAnyMatrixView, const formats::PackedView&, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void linear_input_gradient(ConstAnyMatrixView, ConstAnyMatrixView, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void grouped_input_gradient(ConstAnyMatrixView, std::span<const int64_t>,
                            std::span<const GroupWeight>, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void linear_weight_gradient(ConstAnyMatrixView, ConstAnyMatrixView, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void embed(std::span<const int32_t>, const formats::PackedView&, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void output_error(ConstAnyMatrixView, ConstAnyMatrixView, ConstAnyMatrixView, ConstAnyMatrixView,
                  VectorView<float>, VectorView<float>) {
  VERNIER_CHECK(false);
}
void score_logits(ConstAnyMatrixView, ConstAnyMatrixView, std::span<const int32_t>,
                  std::span<TokenScore>) {
  VERNIER_CHECK(false);
}
void cross_entropy_gradient(ConstAnyMatrixView, std::span<const int32_t>, float, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void fisher_probe(ConstAnyMatrixView, uint64_t, uint64_t, float, AnyMatrixView) {
  VERNIER_CHECK(false);
}
void kl_gradient(ConstAnyMatrixView, ConstAnyMatrixView, float, AnyMatrixView) {
  VERNIER_CHECK(false);
}

}  // namespace vernier::kernels::cuda
