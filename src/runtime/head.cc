#include "runtime/head.h"

#include "model/layers/linear_site.h"

namespace vernier::runtime {

void compute_logits(const model::Model& model, const model::WeightSource& weights,
                    ConstAnyMatrixView hidden, model::SiteHook* hook, AnyMatrixView logits) {
  AnyMatrix normed = new_activation(hidden.rows, hidden.cols, hidden.device);
  model.final_norm(hidden, weights, normed);
  model::LinearSite(model.head(), weights.linear(model.head())).forward(normed, hook, logits);
}

}  // namespace vernier::runtime
