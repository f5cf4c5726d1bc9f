#include "runtime/head.h"

#include "model/layers/linear_site.h"

namespace vernier::runtime {

void compute_logits(const model::Model& model, const model::WeightSource& weights,
                    ConstMatrixView hidden, model::SiteHook* hook, MatrixView logits) {
  Matrix normed(hidden.rows, hidden.cols);
  model.final_norm(hidden, weights, normed);
  model::LinearSite(model.head(), weights.linear(model.head())).forward(normed, hook, logits);
}

}  // namespace vernier::runtime
