#include "runtime/head.h"

#include "model/layers/linear_site.h"

namespace vernier::runtime {

void compute_logits(const model::Model& model, const model::WeightSource& weights,
                    ConstAnyMatrixView hidden, model::SiteHook* hook, AnyMatrixView logits) {
  const model::LinearSite head(model.head(), weights.linear(model.head()));
  // A hook is shown the normed values themselves.
  const auto codes = hook == nullptr ? head.input_codes(hidden.rows) : std::nullopt;
  model::LinearInputRoom normed(hidden.rows, hidden.cols, hidden.device, codes);
  model.final_norm(hidden, weights, normed.rule, normed.values);
  head.forward(normed.input(), hook, logits);
}

}  // namespace vernier::runtime
