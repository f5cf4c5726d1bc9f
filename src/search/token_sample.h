// The tokens of a batch on which candidates run: all, or a share, one drawn from every run of
// neighbours, so that no part of a text is missed.
#pragma once

#include <cstdint>
#include <vector>

#include "tensor/any_matrix.h"

namespace vernier::search {

class TokenSample {
 public:
  TokenSample() = default;
  // Of rows [first_row, first_row + n_rows) of all tokens, the rows with a place in a share of
  // `share`, 0 < share <= 1. The same seed and rows give the same sample.
  TokenSample(double share, uint64_t seed, int64_t first_row, int64_t n_rows, Device* device);

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  // Rows of all tokens, in ascending order.
  const std::vector<int64_t>& rows() const { return rows_; }
  bool takes_all() const { return takes_all_; }
  // The same counted from the batch's first, where the layers run; empty where all are taken.
  VectorView<const int32_t> within() const { return within_; }
  // These rows of a matrix of the batch: itself where all are taken, else a copy, which `scratch`
  // then holds.
  ConstAnyMatrixView of(ConstAnyMatrixView matrix, AnyMatrix& scratch) const;

 private:
  bool takes_all_ = true;
  std::vector<int64_t> rows_;
  Vector<int32_t> within_;
};

}  // namespace vernier::search
