// A group of ranks that talk. Every call is made by all ranks of the group, in the same order, and
// returns when this rank's part is done, or queued where devices talk by themselves; a group of one
// returns at once.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tensor/any_matrix.h"

namespace vernier::comm {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Matrices: on the host or on each rank's device, alike on all ranks. Where device memory cannot
  // be sent, it goes through the host's. Throws CommFault when another rank has gone.

  // values, FP32, becomes the sum over all ranks: the same bits on each. Of one shape on all ranks;
  // rows may lie apart.
  virtual void sum(AnyMatrixView values) const = 0;
  // Rows go to other ranks: rank r is sent own's next n_to[r] rows, in the order of ranks, and its
  // n_from[r] rows arrive in `arrived` in that order. REQUIRES: contiguous matrices of one width
  // and type, with as many rows as are sent and arrive; n_from[r] here is n_to[this] there.
  virtual void exchange_rows(ConstAnyMatrixView own, std::span<const int64_t> n_to,
                             AnyMatrixView arrived, std::span<const int64_t> n_from) const = 0;
  // One rank sends, another receives; contiguous, of one shape and type. May wait for the other:
  // two ranks that both send first wait for ever.
  virtual void send(ConstAnyMatrixView values, int to) const = 0;
  virtual void receive(AnyMatrixView values, int from) const = 0;

  // Host values, element by element.
  virtual void sum(std::span<int64_t> values) const = 0;
  virtual void sum(std::span<double> values) const = 0;
  virtual void max(std::span<float> values) const = 0;
  // Rank r's values become the r-th part of `all` everywhere. REQUIRES: as many on every rank.
  virtual void gather_all(std::span<const int64_t> own, std::span<int64_t> all) const = 0;
  // Every rank's text, in order, on rank `root`; nothing elsewhere.
  virtual std::vector<std::string> gather(const std::string& own, int root) const = 0;
  // The root's text, everywhere.
  virtual std::string broadcast(const std::string& own, int root) const = 0;
  // Returns when all ranks have come here.
  virtual void barrier() const = 0;

  // Groups of the ranks that name the same color, in the order of this group. The new group must
  // not outlive this one.
  virtual std::unique_ptr<Communicator> split(int64_t color) const = 0;
};

// The largest and the least of what the ranks of a group have.
int64_t largest(const Communicator& ranks, int64_t own);
int64_t least(const Communicator& ranks, int64_t own);

// A group of this rank alone.
std::unique_ptr<Communicator> alone();

}  // namespace vernier::comm
