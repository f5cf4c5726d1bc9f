// The program: parses the command line, runs one command, turns errors into sentences and exit
// statuses.
#include <malloc.h>

#include <array>
#include <exception>
#include <new>

#include "base/error.h"
#include "cli/command.h"
#include "kernels/linear.h"

namespace vernier::cli {
namespace {

constexpr int kBadInput = 2;
constexpr int kEnvironmentFailed = 3;
constexpr int kOurFault = 70;

constexpr std::array kCommands = {
    Command{"quantize", "calibrate and quantize a checkpoint", declare_quantize},
    Command{"generate", "generate text from a checkpoint, quantized or not", declare_generate},
    Command{"search", "choose formats by sensitivity within a budget", declare_search},
    Command{"bench", "measure the linears of a model on this machine", declare_bench},
    Command{"export", "turn a sharded checkpoint into a Hugging Face one", declare_export},
    Command{"evaluate", "perplexity and divergence of checkpoints, side by side", declare_evaluate},
    Command{"inspect", "show what is in a checkpoint; --verify checks it", declare_inspect},
    Command{"recipes", "list the recipes, or show one", declare_recipes},
};

// Activations come and go in blocks of megabytes, which the C library would map and unmap each
// time: the page faults cost a fifth of a forward pass. Freed memory is kept instead.
void keep_freed_memory() {
  constexpr int kKeptBytes = 256 << 20;
  ::mallopt(M_MMAP_THRESHOLD, kKeptBytes);
  ::mallopt(M_TRIM_THRESHOLD, kKeptBytes);
}

void complain(const std::string& sentence) {
  std::fprintf(stderr, "vernier: %s\n", sentence.c_str());
}

// CLI11 answers --help and --version through exceptions as well.
int finish_parse(const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);
  complain(error.what());
  std::fprintf(stderr, "Run with --help for the flags.\n");
  return kBadInput;
}

int run_action(const Action& action) {
  Console console;
  try {
    return action(console);
  } catch (const Error& error) {
    console.clear_progress();
    complain(error.message());
    return exit_status(error.kind());
  } catch (const std::bad_alloc&) {
    console.clear_progress();
    complain("memory ran out; --plan shows what a job needs");
    return kEnvironmentFailed;
  } catch (const std::exception& error) {
    console.clear_progress();
    complain(std::string("a fault of ours, please report it: ") + error.what());
    return kOurFault;
  }
}

}  // namespace

std::span<const Command> all_commands() { return kCommands; }

int run_program(int argc, const char* const* argv) {
  CLI::App app{
      "Vernier quantizes hybrid Mamba-2 / MoE / attention language models to FP8 and NVFP4,\n"
      "runs the result and exports Hugging Face checkpoints.",
      "vernier"};
  app.set_version_flag("--version", "vernier " VERNIER_VERSION);
  app.require_subcommand(1);
  app.get_formatter()->column_width(34);
  Action action;
  for (const Command& command : kCommands) {
    CLI::App* sub = app.add_subcommand(command.name, command.summary);
    const Action declared = command.declare(*sub);
    sub->callback([&action, declared] { action = declared; });
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return finish_parse(app, error);
  }
  keep_freed_memory();
  kernels::configure_host_threads();
  return run_action(action);
}

}  // namespace vernier::cli
