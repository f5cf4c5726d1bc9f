#include "comm/communicator.h"

#include <algorithm>

namespace vernier::comm {
namespace {

std::vector<int64_t> of_all(const Communicator& ranks, int64_t own) {
  std::vector<int64_t> all(static_cast<size_t>(ranks.size()));
  ranks.gather_all({&own, 1}, all);
  return all;
}

}  // namespace

int64_t largest(const Communicator& ranks, int64_t own) {
  return std::ranges::max(of_all(ranks, own));
}

int64_t least(const Communicator& ranks, int64_t own) {
  return std::ranges::min(of_all(ranks, own));
}

}  // namespace vernier::comm
