// Backward of h + mixer(norm(h)).
#include "kernels/rms_norm.h"
#include "kernels/rms_norm_backward.h"
#include "model/layers/gradient_set.h"
#include "model/layers/residual_layer.h"

namespace vernier::model {

void ResidualLayer::backward(ConstAnyMatrixView hidden, std::span<const int64_t> n_tokens,
                             Gradients g_hidden, GradientHook* hook) const {
  std::vector<kernels::SequenceSpan> sequences;
  int64_t n_rows = 0;
  for (const int64_t length : n_tokens) {
    sequences.push_back({n_rows, length});
    n_rows += length;
  }
  VERNIER_CHECK(n_rows == hidden.rows);
  if (mixer_->common_pieces(n_rows > 0 ? 1 : 0) == 0) return;

  AnyMatrix normed = new_activation(n_rows, hidden.cols, hidden.device);
  if (n_rows > 0) kernels::rms_norm(hidden, norm_weight_, eps_, normed);
  const GradientSet g_normed(g_hidden.size(), n_rows, hidden.cols, DType::kF32, hidden.device);
  mixer_->backward(normed, sequences, g_hidden, hook, g_normed);
  if (n_rows == 0) return;
  for (size_t loss = 0; loss < g_hidden.size(); ++loss) {
    ranks_.tensor().sum(g_normed[loss]);
    kernels::rms_norm_backward(hidden, norm_weight_, eps_, g_normed[loss], g_hidden[loss],
                               gradient_of(hook, loss, name_ + ".norm.weight"));
  }
}

}  // namespace vernier::model
