// Where a sequence lies among the rows of a batch.
#pragma once

#include <cstdint>

namespace vernier::kernels {

// Rows [first_row, first_row + n_rows) are one whole sequence, which starts from an empty state:
// what backward ops take.
struct SequenceSpan {
  int64_t first_row;
  int64_t n_rows;
};

}  // namespace vernier::kernels
