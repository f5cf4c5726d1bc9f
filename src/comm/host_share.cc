#include "comm/host_share.h"

#include <unistd.h>

#include <array>
#include <string>
#include <vector>

namespace vernier::comm {
namespace {

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace

Share share_of_host(const Communicator& world) {
  // Lines of one name a rank; a host name holds no line end.
  const std::string own = host_name();
  std::string all;
  for (const std::string& name : world.gather(own, 0)) all += name + '\n';
  all = world.broadcast(all, 0);
  Share share{0, 0};
  size_t start = 0;
  for (int rank = 0; rank < world.size(); ++rank) {
    const size_t end = all.find('\n', start);
    const bool is_here = all.compare(start, end - start, own) == 0;
    if (is_here && rank < world.rank()) ++share.index;
    if (is_here) ++share.count;
    start = end + 1;
  }
  return share;
}

}  // namespace vernier::comm
