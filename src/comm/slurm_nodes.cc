#include "comm/slurm_nodes.h"

#include <algorithm>

namespace vernier::comm {

// Of each bracket, what stands before its first comma or dash.
std::optional<std::string> first_node(std::string_view list) {
  std::string name;
  while (!list.empty() && list.front() != ',') {
    const size_t n_plain = std::min(list.find_first_of("[,"), list.size());
    name += list.substr(0, n_plain);
    list.remove_prefix(n_plain);
    if (!list.starts_with('[')) break;
    const size_t end = list.find(']');
    const size_t n_first = list.find_first_of(",-]");
    if (end == list.npos || n_first == 1) return std::nullopt;
    name += list.substr(1, n_first - 1);
    list.remove_prefix(end + 1);
  }
  if (name.empty() || name.find(']') != name.npos) return std::nullopt;
  return name;
}

}  // namespace vernier::comm
