#include "runtime/head.h"

#include <algorithm>

#include "model/layers/linear_site.h"
#include "model/whole_output.h"

namespace vernier::runtime {

void compute_logits(const model::Model& model, const model::WeightSource& weights,
                    ConstAnyMatrixView hidden, model::SiteHook* hook, AnyMatrixView logits) {
  const model::LinearSite head(model.head(), weights.linear(model.head()));
  // A hook is shown the normed values themselves.
  const auto codes = hook == nullptr ? head.input_codes(hidden.rows) : std::nullopt;
  model::LinearInputRoom normed(hidden.rows, hidden.cols, hidden.device, codes);
  model.final_norm(hidden, weights, normed.rule, normed.values);
  const comm::Communicator& tensor = model.ranks().tensor();
  if (tensor.size() == 1) return head.forward(normed.input(), hook, logits);
  AnyMatrix own(logits.rows, head.n(), DType::kF32, logits.device);
  head.forward(normed.input(), hook, own);
  model::gather_outputs(own, model.head(), tensor, logits);
}

void visit_head_inputs(const model::Model& model, const model::WeightSource& weights,
                       const HiddenStore& hidden,
                       const std::function<void(ConstAnyMatrixView normed)>& visit) {
  constexpr int64_t kPieceTokens = 4096;
  for (int64_t first = 0; first < hidden.view().rows; first += kPieceTokens) {
    const int64_t n_rows = std::min(kPieceTokens, hidden.view().rows - first);
    hidden.read(first, n_rows, [&](ConstAnyMatrixView rows) {
      AnyMatrix normed = new_activation(rows.rows, rows.cols, rows.device);
      model.final_norm(rows, weights, {}, normed);
      visit(normed);
    });
  }
}

}  // namespace vernier::runtime
