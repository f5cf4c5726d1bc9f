#include "runtime/embed.h"

#include <vector>

#include "kernels/elementwise.h"
#include "kernels/linear.h"

namespace vernier::runtime {
namespace {

// Rows whose ids are not in `here` become zeros.
void embed_share(const formats::PackedView& table, comm::Range here,
                 std::span<const text::TokenId> ids, AnyMatrixView rows) {
  std::vector<text::TokenId> own;
  for (const text::TokenId id : ids) {
    if (id >= here.begin && id < here.end) {
      own.push_back(static_cast<text::TokenId>(id - here.begin));
    }
  }
  const auto n_own = std::ssize(own);
  AnyMatrix found = new_zeros(n_own + 1, rows.cols, rows.device);  // the last row stays zero
  if (n_own > 0) kernels::embed(own, table, found.view().row_range(0, n_own));
  std::vector<int32_t> places;
  int32_t next = 0;
  for (const text::TokenId id : ids) {
    const bool is_here = id >= here.begin && id < here.end;
    places.push_back(is_here ? next++ : static_cast<int32_t>(n_own));
  }
  kernels::gather_rows(found, Vector<int32_t>(std::span<const int32_t>(places), rows.device), rows);
}

}  // namespace

void embed(const model::Model& model, const model::WeightSource& weights,
           std::span<const text::TokenId> ids, AnyMatrixView rows) {
  const model::LinearWeight table = weights.linear(model.embedding());
  const comm::Share share = model.ranks().place().tensor;
  if (share.count == 1) return kernels::embed(ids, table.packed, rows);
  const model::Cut& cut = model.embedding().tensors.front().cut;
  embed_share(table.packed, model::kept_ranges(cut, share).front(), ids, rows);
  model.ranks().tensor().sum(rows);
}

}  // namespace vernier::runtime
