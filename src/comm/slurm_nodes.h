// Slurm's short form of a list of nodes: "a1,b2", "node[01-04,07]", "rack[1-2]node[3-4]".
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace vernier::comm {

// The name of the first, nothing where that is no list of nodes.
std::optional<std::string> first_node(std::string_view list);

}  // namespace vernier::comm
