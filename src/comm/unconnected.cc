#include "comm/unconnected.h"

#include "base/check.h"

namespace vernier::comm {
namespace {

[[noreturn]] void refuse() { VERNIER_CHECK(!"a rank that was started"); }

class Unconnected : public Communicator {
 public:
  explicit Unconnected(Share share)
      : rank_(static_cast<int>(share.index)), size_(static_cast<int>(share.count)) {}

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void sum(AnyMatrixView) const override { refuse(); }
  void exchange_rows(ConstAnyMatrixView, std::span<const int64_t>, AnyMatrixView,
                     std::span<const int64_t>) const override {
    refuse();
  }
  void send(ConstAnyMatrixView, int) const override { refuse(); }
  void receive(AnyMatrixView, int) const override { refuse(); }

  void sum(std::span<int64_t>) const override { refuse(); }
  void sum(std::span<double>) const override { refuse(); }
  void max(std::span<float>) const override { refuse(); }
  void gather_all(std::span<const int64_t>, std::span<int64_t>) const override { refuse(); }
  std::vector<std::string> gather(const std::string&, int) const override { refuse(); }
  std::string broadcast(const std::string&, int) const override { refuse(); }
  void barrier() const override { refuse(); }

  std::unique_ptr<Communicator> split(int64_t) const override { refuse(); }

 private:
  int rank_, size_;
};

std::unique_ptr<Communicator> group(Share share) { return std::make_unique<Unconnected>(share); }

}  // namespace

Ranks unconnected(const Layout& layout, int64_t rank) {
  const Place place = layout.place(rank);
  return Ranks(layout, rank,
               {.world = group({rank, layout.world()}),
                .stage = group({rank % layout.stage_size(), layout.stage_size()}),
                .tensor = group(place.tensor),
                .expert = group(place.expert),
                .pipeline = group(place.pipeline)});
}

}  // namespace vernier::comm
