// For backends that send host memory alone: matrices on a device, and sums of matrices whose rows
// lie apart, go through contiguous host copies, here once for all of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/communicator.h"

namespace vernier::comm {

class StagedCommunicator : public Communicator {
 public:
  using Communicator::sum;
  void sum(AnyMatrixView values) const override;
  void exchange_rows(ConstAnyMatrixView own, std::span<const int64_t> n_to, AnyMatrixView arrived,
                     std::span<const int64_t> n_from) const override;
  void send(ConstAnyMatrixView values, int to) const override;
  void receive(AnyMatrixView values, int from) const override;

 protected:
  // One side of an exchange: for every rank a run of rows, one after the other.
  template <class Byte>
  struct Runs {
    Byte* data = nullptr;
    std::span<const int64_t> n_rows;  // by rank
  };

  // The contracts of communicator.h on contiguous host memory.
  virtual void sum_floats(std::span<float> values) const = 0;
  virtual void exchange_runs(Runs<const std::byte> own, Runs<std::byte> arrived,
                             int64_t row_bytes) const = 0;
  virtual void send_bytes(std::span<const std::byte> bytes, int to) const = 0;
  virtual void receive_bytes(std::span<std::byte> bytes, int from) const = 0;
};

}  // namespace vernier::comm
