#include "comm/staged_communicator.h"

#include "comm/matrix_checks.h"

namespace vernier::comm {
namespace {

// Where the host finds a matrix's values: in the matrix itself, or in a contiguous copy.
class HostCopy {
 public:
  explicit HostCopy(ConstAnyMatrixView matrix)
      : is_needed_(matrix.device != nullptr || !is_contiguous(matrix)) {
    if (is_needed_) copy_ = AnyMatrix(matrix.rows, matrix.cols, matrix.dtype, nullptr);
  }

  ConstAnyMatrixView read(ConstAnyMatrixView matrix) {
    if (!is_needed_) return matrix;
    copy_matrix(matrix, copy_);
    return copy_;
  }
  AnyMatrixView to_fill(AnyMatrixView matrix) { return is_needed_ ? copy_.view() : matrix; }
  void write_back(AnyMatrixView matrix) const {
    if (is_needed_) copy_matrix(copy_, matrix);
  }

 private:
  bool is_needed_;
  AnyMatrix copy_;
};

std::span<const std::byte> bytes_of(ConstAnyMatrixView matrix) {
  return {static_cast<const std::byte*>(matrix.data), static_cast<size_t>(size_bytes(matrix))};
}

std::span<std::byte> bytes_of(AnyMatrixView matrix) {
  return {static_cast<std::byte*>(matrix.data), static_cast<size_t>(size_bytes(matrix))};
}

}  // namespace

void StagedCommunicator::sum(AnyMatrixView values) const {
  VERNIER_CHECK(values.dtype == DType::kF32);
  HostCopy host(values);
  host.read(values);
  const AnyMatrixView here = host.to_fill(values);
  sum_floats({here.as<float>(), static_cast<size_t>(here.rows * here.cols)});
  host.write_back(values);
}

void StagedCommunicator::exchange_rows(ConstAnyMatrixView own, std::span<const int64_t> n_to,
                                       AnyMatrixView arrived,
                                       std::span<const int64_t> n_from) const {
  check_exchange(own, n_to, arrived, n_from, size());
  HostCopy sent(own), received(arrived);
  exchange_runs({bytes_of(sent.read(own)).data(), n_to},
                {bytes_of(received.to_fill(arrived)).data(), n_from}, row_bytes(own));
  received.write_back(arrived);
}

void StagedCommunicator::send(ConstAnyMatrixView values, int to) const {
  VERNIER_CHECK(is_contiguous(values) && to >= 0 && to < size() && to != rank());
  send_bytes(bytes_of(HostCopy(values).read(values)), to);
}

void StagedCommunicator::receive(AnyMatrixView values, int from) const {
  VERNIER_CHECK(is_contiguous(values) && from >= 0 && from < size() && from != rank());
  HostCopy host(values);
  receive_bytes(bytes_of(host.to_fill(values)), from);
  host.write_back(values);
}

}  // namespace vernier::comm
