// A command is one file: it declares its flags on a CLI11 subcommand and leaves an action behind.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "cli/app_fwd.h"
#include "cli/console.h"
#include "comm/communicator.h"

namespace vernier::cli {

// Runs the command whose flags were parsed, on all ranks of the world; the exit status.
using Action = std::function<int(Console&, const comm::Communicator& world)>;

struct Command {
  const char* name;
  const char* summary;
  // Declares the flags on `app` and returns what to do once they are parsed.
  Action (*declare)(CLI::App& app);
  bool runs_on_ranks = false;  // whether several ranks share its work
};

Action declare_quantize(CLI::App& app);
Action declare_generate(CLI::App& app);
Action declare_export(CLI::App& app);
Action declare_evaluate(CLI::App& app);
Action declare_inspect(CLI::App& app);
Action declare_search(CLI::App& app);
Action declare_bench(CLI::App& app);
Action declare_plan(CLI::App& app);
Action declare_recipes(CLI::App& app);

// In the order in which help lists them.
std::span<const Command> all_commands();

// Parses and runs; prints errors. The process's exit status.
int run_program(int argc, const char* const* argv);

}  // namespace vernier::cli
