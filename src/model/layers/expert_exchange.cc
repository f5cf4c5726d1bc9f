#include "model/layers/expert_exchange.h"

#include <numeric>

#include "kernels/elementwise.h"

namespace vernier::model {
namespace {

int64_t sum_of(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

AnyMatrix reordered(ConstAnyMatrixView rows, const Vector<int32_t>& order) {
  AnyMatrix sorted(rows.rows, rows.cols, rows.dtype, rows.device);
  if (rows.rows > 0) kernels::gather_rows(rows, order, sorted);
  return sorted;
}

}  // namespace

ExpertExchange::ExpertExchange(const comm::Communicator& ranks, const kernels::ExpertGroups& groups,
                               Device* device)
    : ranks_(ranks), device_(device) {
  const auto n_experts = std::ssize(groups.begin) - 1;
  const int64_t n_ranks = ranks.size();
  const int64_t n_here = n_experts / n_ranks;
  std::vector<int64_t> counts(static_cast<size_t>(n_experts));
  for (size_t expert = 0; expert < counts.size(); ++expert) {
    counts[expert] = groups.begin[expert + 1] - groups.begin[expert];
  }
  std::vector<int64_t> all(static_cast<size_t>(n_ranks * n_experts));
  ranks.gather_all(counts, all);
  // Pairs that a rank has for the expert of this number among those here.
  const auto count = [&](int64_t rank, int64_t expert) {
    return all[static_cast<size_t>(rank * n_experts + ranks.rank() * n_here + expert)];
  };

  for (int64_t rank = 0; rank < n_ranks; ++rank) {
    n_sent_.push_back(groups.begin[static_cast<size_t>((rank + 1) * n_here)] -
                      groups.begin[static_cast<size_t>(rank * n_here)]);
    int64_t n_arriving = 0;
    for (int64_t expert = 0; expert < n_here; ++expert) n_arriving += count(rank, expert);
    n_arriving_.push_back(n_arriving);
  }

  // Rows arrive rank by rank, each rank's by expert.
  std::vector<int64_t> next(static_cast<size_t>(n_ranks), 0);
  std::exclusive_scan(n_arriving_.begin(), n_arriving_.end(), next.begin(), int64_t{0});
  const auto n_rows = static_cast<size_t>(sum_of(n_arriving_));
  std::vector<int32_t> by_expert, by_rank(n_rows);
  begin_.push_back(0);
  for (int64_t expert = 0; expert < n_here; ++expert) {
    for (int64_t rank = 0; rank < n_ranks; ++rank) {
      for (int64_t pair = 0; pair < count(rank, expert); ++pair) {
        const int64_t place = next[static_cast<size_t>(rank)]++;
        by_rank[static_cast<size_t>(place)] = static_cast<int32_t>(by_expert.size());
        by_expert.push_back(static_cast<int32_t>(place));
      }
    }
    begin_.push_back(std::ssize(by_expert));
  }
  by_expert_ = Vector<int32_t>(std::span<const int32_t>(by_expert), device);
  by_rank_ = Vector<int32_t>(std::span<const int32_t>(by_rank), device);
}

AnyMatrix ExpertExchange::deliver(ConstAnyMatrixView own) const {
  return reordered(exchange(own, n_sent_, n_arriving_).view(), by_expert_);
}

AnyMatrix ExpertExchange::bring_back(ConstAnyMatrixView by_expert) const {
  const AnyMatrix by_rank = reordered(by_expert, by_rank_);
  return exchange(by_rank.view(), n_arriving_, n_sent_);
}

AnyMatrix ExpertExchange::exchange(ConstAnyMatrixView rows, const std::vector<int64_t>& n_to,
                                   const std::vector<int64_t>& n_from) const {
  AnyMatrix arrived(sum_of(n_from), rows.cols, rows.dtype, device_);
  ranks_.exchange_rows(rows, n_to, arrived.view(), n_from);
  return arrived;
}

}  // namespace vernier::model
