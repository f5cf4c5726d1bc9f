// The program: parses the command line, runs one command, turns errors into sentences and exit
// statuses.
#include <fmt/format.h>
#include <malloc.h>
#include <CLI/CLI.hpp>

#include <array>
#include <exception>
#include <new>

#include "base/error.h"
#include "cli/command.h"
#include "comm/world.h"
#include "kernels/linear.h"

namespace vernier::cli {
namespace {

constexpr int kBadInput = 2;
constexpr int kEnvironmentFailed = 3;
constexpr int kOurFault = 70;

constexpr std::array kCommands = {
    Command{"quantize", "calibrate and quantize a checkpoint", declare_quantize, true},
    Command{"generate", "generate text from a checkpoint, quantized or not", declare_generate,
            true},
    Command{"search", "choose formats by sensitivity within a budget", declare_search, true},
    Command{"bench", "measure the linears of a model on this machine", declare_bench},
    Command{"export", "turn a sharded checkpoint into a Hugging Face one", declare_export, true},
    Command{"evaluate", "perplexity and divergence of checkpoints, side by side", declare_evaluate,
            true},
    Command{"inspect", "show what is in a checkpoint; --verify checks it", declare_inspect},
    Command{"plan", "predict memory and time of every layout of ranks", declare_plan},
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

// What the ranks have in common while they run. Of several that fail at once, one complains.
class Program {
 public:
  int run(int argc, const char* const* argv) {
    try {
      world_ = comm::open_world(complain);
    } catch (const Error& error) {
      complain(error.message());
      return exit_status(error.kind());
    }
    const int status = parse_and_run(argc, argv);
    if (status != 0 && world_->all().size() > 1) world_->end(status);
    return status;
  }

 private:
  bool is_first() const { return world_->all().rank() == 0; }

  int fail(int status, const std::string& sentence) {
    if (world_->speaks_for_failure(status)) complain(sentence);
    return status;
  }

  int parse_and_run(int argc, const char* const* argv) {
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
      sub->callback([this, &action, &command, declared] {
        check_ranks(command);
        action = declared;
      });
    }
    try {
      app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
      return finish_parse(app, error);
    } catch (const Error& error) {
      return fail(exit_status(error.kind()), error.message());
    }
    keep_freed_memory();
    kernels::configure_host_threads();
    return run_action(action);
  }

  void check_ranks(const Command& command) const {
    const int n_ranks = world_->all().size();
    if (n_ranks == 1 || command.runs_on_ranks) return;
    throw Error(ErrorKind::kUnsupported,
                fmt::format("{}: started on {} ranks, expected one, since ranks do not share its "
                            "work",
                            command.name, n_ranks));
  }

  // CLI11 answers --help and --version through exceptions as well.
  int finish_parse(const CLI::App& app, const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return is_first() ? app.exit(error) : 0;
    return fail(kBadInput, std::string(error.what()) + "\nRun with --help for the flags.");
  }

  int run_action(const Action& action) {
    Console console(!is_first());
    try {
      return action(console, world_->all());
    } catch (const Error& error) {
      console.clear_progress();
      return fail(exit_status(error.kind()), error.message());
    } catch (const std::bad_alloc&) {
      console.clear_progress();
      return fail(kEnvironmentFailed, "memory ran out; --plan shows what a job needs");
    } catch (const std::exception& error) {
      console.clear_progress();
      return fail(kOurFault, std::string("a fault of ours, please report it: ") + error.what());
    }
  }

  std::unique_ptr<comm::World> world_;
};

}  // namespace

std::span<const Command> all_commands() { return kCommands; }

int run_program(int argc, const char* const* argv) { return Program().run(argc, argv); }

}  // namespace vernier::cli
