#include "model/whole_output.h"

#include "kernels/elementwise.h"

namespace vernier::model {

comm::Range own_outputs(const Module& linear, const comm::Communicator& tensor) {
  const Cut& cut = linear.tensors.front().cut;
  VERNIER_CHECK(cut.kind == CutKind::kRows && cut.segments.size() == 1);
  return kept_ranges(cut, {tensor.rank(), tensor.size()}).front();
}

// Sums with zeros put shares side by side.
void gather_outputs(ConstAnyMatrixView own, const Module& linear, const comm::Communicator& tensor,
                    AnyMatrixView whole) {
  VERNIER_CHECK(whole.row_stride == whole.cols && whole.dtype == DType::kF32);
  if (whole.rows == 0) return;
  const comm::Range here = own_outputs(linear, tensor);
  fill_zero(whole.data, whole.device, whole.rows * whole.cols * whole.elem_bytes());
  kernels::add(own, whole.col_range(here.begin, here.size()));
  tensor.sum(whole);
}

}  // namespace vernier::model
