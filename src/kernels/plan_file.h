// Which algorithm computes which matrix product fastest, kept on disk between runs: searching
// again would give the same answers. Lines of JSON, the first of which names the machine that the
// others are about. A file that is missing, foreign or damaged counts as empty, and one that cannot
// be written is not: no product depends on it.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace vernier::kernels {

// Both sides are letters, digits, underscores and spaces: a description of a product, an algorithm
// as hexadecimal digits.
using PlanTable = std::map<std::string, std::string>;

// $XDG_CACHE_HOME/vernier, else ~/.cache/vernier; empty where neither variable is set.
std::filesystem::path plan_directory();
// The file of a machine (a device and a version of the library) in that directory; empty where
// that is.
std::filesystem::path plan_path(const std::string& machine);

PlanTable load_plans(const std::filesystem::path& path, const std::string& machine);
// Adds to the file what it lacks and replaces what differs. Another process that writes at the same
// time may undo that, never damage the file. Does nothing for an empty path.
void save_plans(const std::filesystem::path& path, const std::string& machine,
                const PlanTable& plans);

}  // namespace vernier::kernels
