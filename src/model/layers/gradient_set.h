// Matrices that hold the gradients of one matrix, one for each loss.
#pragma once

#include <string>
#include <vector>

#include "kernels/elementwise.h"
#include "model/gradient_hook.h"

namespace vernier::model {

class GradientSet {
 public:
  // Not initialized.
  GradientSet(size_t n_losses, int64_t rows, int64_t cols, DType dtype, Device* device) {
    for (size_t loss = 0; loss < n_losses; ++loss) {
      views_.push_back(matrices_.emplace_back(rows, cols, dtype, device).view());
    }
  }
  // Of activations of the device's compute type.
  static GradientSet of_activation(size_t n_losses, int64_t rows, int64_t cols, Device* device) {
    return GradientSet(n_losses, rows, cols, compute_dtype(device), device);
  }

  AnyMatrixView operator[](size_t loss) const { return views_[loss]; }
  operator Gradients() const { return views_; }

 private:
  // A moved vector keeps its elements where they are, and so the views.
  std::vector<AnyMatrix> matrices_;
  std::vector<AnyMatrixView> views_;
};

inline std::vector<AnyMatrixView> row_range(Gradients gradients, int64_t first, int64_t n_rows) {
  std::vector<AnyMatrixView> parts;
  for (const AnyMatrixView& gradient : gradients) {
    parts.push_back(gradient.row_range(first, n_rows));
  }
  return parts;
}

// to += from, loss by loss. FP32.
inline void add(Gradients from, Gradients to) {
  for (size_t loss = 0; loss < to.size(); ++loss) kernels::add(from[loss], to[loss]);
}

// Of a tensor, by its checkpoint name, from the first loss alone; empty where nobody wants it.
inline VectorView<float> gradient_of(GradientHook* hook, size_t loss, const std::string& tensor) {
  if (hook == nullptr || loss > 0) return {};
  return hook->gradient_of(tensor);
}

}  // namespace vernier::model
