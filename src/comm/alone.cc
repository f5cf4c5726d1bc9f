// A group of one: what it says to all, it says to itself, and its matrices stay where they are.
#include <algorithm>

#include "comm/communicator.h"
#include "comm/matrix_checks.h"

namespace vernier::comm {
namespace {

class Alone : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  void sum(AnyMatrixView values) const override { VERNIER_CHECK(values.dtype == DType::kF32); }
  void exchange_rows(ConstAnyMatrixView own, std::span<const int64_t> n_to, AnyMatrixView arrived,
                     std::span<const int64_t> n_from) const override {
    check_exchange(own, n_to, arrived, n_from, size());
    copy_matrix(own, arrived);
  }
  void send(ConstAnyMatrixView, int) const override { VERNIER_CHECK(!"another rank"); }
  void receive(AnyMatrixView, int) const override { VERNIER_CHECK(!"another rank"); }

  void sum(std::span<int64_t>) const override {}
  void sum(std::span<double>) const override {}
  void max(std::span<float>) const override {}
  void gather_all(std::span<const int64_t> own, std::span<int64_t> all) const override {
    VERNIER_CHECK(own.size() == all.size());
    std::ranges::copy(own, all.begin());
  }
  std::vector<std::string> gather(const std::string& own, int) const override { return {own}; }
  std::string broadcast(const std::string& own, int) const override { return own; }
  void barrier() const override {}

  std::unique_ptr<Communicator> split(int64_t) const override { return alone(); }
};

}  // namespace

std::unique_ptr<Communicator> alone() { return std::make_unique<Alone>(); }

}  // namespace vernier::comm
