// The search as a function, for the commands that search.
#pragma once

#include <filesystem>
#include <vector>

#include "cli/console.h"
#include "cli/search_flags.h"

namespace vernier::cli {

// Searches and writes the output directory. The recipes' paths there, one for each budget of bits
// (one where only other budgets are set); empty with --plan.
std::vector<std::filesystem::path> run_search(const SearchFlags& flags, Console& console,
                                              const comm::Communicator& world);

// Where the recipe for the least budget of bits is written.
std::filesystem::path search_recipe(const SearchFlags& flags);

}  // namespace vernier::cli
