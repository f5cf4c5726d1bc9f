#include "search/token_sample.h"

#include <cmath>

#include "base/check.h"
#include "base/random.h"
#include "kernels/elementwise.h"

namespace vernier::search {
namespace {

constexpr uint32_t kStream = 1;  // of random numbers

// Where the i-th run of neighbours begins.
int64_t run_begin(int64_t index, double share) {
  return static_cast<int64_t>(std::floor(static_cast<double>(index) / share));
}

}  // namespace

TokenSample::TokenSample(double share, uint64_t seed, int64_t first_row, int64_t n_rows,
                         Device* device) {
  VERNIER_CHECK(share > 0 && share <= 1);
  std::vector<int32_t> within;
  for (auto run = static_cast<int64_t>(static_cast<double>(first_row) * share);; ++run) {
    const int64_t begin = run_begin(run, share);
    if (begin >= first_row + n_rows) break;
    const auto length = static_cast<double>(run_begin(run + 1, share) - begin);
    const double place = random_uniform(seed, kStream, static_cast<uint64_t>(run));
    const int64_t row = begin + static_cast<int64_t>(place * length);
    if (row < first_row || row >= first_row + n_rows) continue;
    rows_.push_back(row);
    within.push_back(static_cast<int32_t>(row - first_row));
  }
  takes_all_ = share == 1;
  if (!takes_all_) within_ = Vector<int32_t>(std::span<const int32_t>(within), device);
}

ConstAnyMatrixView TokenSample::of(ConstAnyMatrixView matrix, AnyMatrix& scratch) const {
  if (takes_all_) return matrix;
  scratch = AnyMatrix(within_.size(), matrix.cols, matrix.dtype, matrix.device);
  if (scratch.rows() > 0) kernels::gather_rows(matrix, within_, scratch);
  return scratch.view();
}

}  // namespace vernier::search
