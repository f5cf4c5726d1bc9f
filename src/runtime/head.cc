#include "runtime/head.h"

#include <algorithm>

#include "model/layers/linear_site.h"

namespace vernier::runtime {

void compute_logits(const model::Model& model, const model::WeightSource& weights,
                    ConstAnyMatrixView hidden, model::SiteHook* hook, AnyMatrixView logits) {
  const model::LinearSite head(model.head(), weights.linear(model.head()));
  // A hook is shown the normed values themselves.
  const auto codes = hook == nullptr ? head.input_codes(hidden.rows) : std::nullopt;
  model::LinearInputRoom normed(hidden.rows, hidden.cols, hidden.device, codes);
  model.final_norm(hidden, weights, normed.rule, normed.values);
  const comm::Ranks& ranks = model.ranks();
  if (ranks.tensor().size() == 1) return head.forward(normed.input(), hook, logits);
  const model::Cut& cut = model.head().tensors.front().cut;
  const comm::Range here = model::kept_ranges(cut, ranks.place().tensor).front();
  AnyMatrix own(logits.rows, here.size(), DType::kF32, logits.device);
  head.forward(normed.input(), hook, own);
  // Sums with zeros put the shares side by side.
  VERNIER_CHECK(logits.row_stride == logits.cols);
  fill_zero(logits.data, logits.device, logits.rows * logits.cols * logits.elem_bytes());
  copy_matrix(own, logits.col_range(here.begin, here.size()));
  ranks.tensor().sum(logits);
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
