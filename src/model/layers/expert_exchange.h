// Tokens on their way to the ranks that hold their experts, and back.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "kernels/router.h"

namespace vernier::model {

// The exchange of one set of (token, expert) pairs a rank. Every rank of the group makes one, at
// the same time, and makes the same calls. Rank r holds the r-th of the equal blocks of experts.
class ExpertExchange {
 public:
  // `groups`: this rank's pairs by expert, of all experts. It may be empty of pairs.
  ExpertExchange(const comm::Communicator& ranks, const kernels::ExpertGroups& groups,
                 Device* device);

  // Pairs that all ranks have for the experts here: expert e of this rank's own owns rows
  // [begin()[e], begin()[e + 1]) of what arrives, rank after rank.
  const std::vector<int64_t>& begin() const { return begin_; }

  // Rows of this rank's pairs, in the order of the groups, become rows of the experts here.
  AnyMatrix deliver(ConstAnyMatrixView own) const;
  // The way back of what the experts made of them.
  AnyMatrix bring_back(ConstAnyMatrixView by_expert) const;

 private:
  AnyMatrix exchange(ConstAnyMatrixView rows, const std::vector<int64_t>& n_to,
                     const std::vector<int64_t>& n_from) const;

  const comm::Communicator& ranks_;
  Device* device_;
  std::vector<int64_t> n_sent_, n_arriving_;  // rows, by rank
  std::vector<int64_t> begin_;
  Vector<int32_t> by_expert_;  // the place in order of arrival of each row in order of experts
  Vector<int32_t> by_rank_;    // and the other way round
};

}  // namespace vernier::model
