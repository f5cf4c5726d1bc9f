// vernier generate: text from a BF16, an exported or a sharded checkpoint.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "base/error.h"
#include "cli/command.h"
#include "cli/device_flags.h"
#include "cli/generation.h"
#include "cli/model_path.h"
#include "cli/opened_model.h"
#include "cli/rank_flags.h"

namespace vernier::cli {
namespace {

struct Flags {
  std::string model;
  std::string sharded;
  std::string
      tokenizer_source;  // accepted for the recipe's scripts; the checkpoint carries its own
  GenerationFlags generation;
  DeviceFlags device;
  RankFlags ranks;
  bool trust_remote_code = false;
};

int run(const Flags& flags, Console& console, const comm::Communicator& world) {
  if (flags.model.empty() == flags.sharded.empty()) {
    throw Error(ErrorKind::kInvalidArgument,
                "generate needs either --model or --megatron-load-path, found both or neither");
  }
  const std::filesystem::path directory =
      flags.sharded.empty() ? find_model(flags.model) : std::filesystem::path(flags.sharded);
  const RankSetup setup = set_up_ranks(flags.ranks, flags.device, world, console);
  Device* device = setup.device.get();
  const model::StoredModel stored = open_any_checkpoint(directory, &setup.ranks);
  if (device != nullptr && !stays_resident(stored, device)) {
    throw Error(
        ErrorKind::kOutOfMemory,
        fmt::format("{}: its weights take {} bytes, the device has {} free; expected a model "
                    "that fits, since generating reads every weight for every token "
                    "(--device cpu maps it instead)",
                    directory.string(), bytes_of_share(stored), device->memory().free_bytes));
  }
  generate_all(stored, device, flags.generation, console);
  return 0;
}

}  // namespace

Action declare_generate(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("--model", flags->model,
                 "Hugging Face checkpoint, BF16 or exported: a directory or a cached id");
  app.add_option("--megatron-load-path", flags->sharded, "sharded checkpoint directory");
  app.add_option("--hf-model-id", flags->tokenizer_source,
                 "accepted as in the recipe's scripts; the checkpoint's own tokenizer is used");
  app.add_option("--prompts", flags->generation.prompts, "prompts, separated by |")
      ->capture_default_str();
  app.add_option("--osl", flags->generation.max_tokens, "most new tokens per prompt")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--temperature", flags->generation.sampling.temperature,
                 "0 takes the likeliest token, 1 samples the model's distribution")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--top-k", flags->generation.sampling.top_k,
                 "sample among the k likeliest tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--top-p", flags->generation.sampling.top_p,
                 "sample among the likeliest tokens that make up this probability")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--seed", flags->generation.sampling.seed, "seed of the sampling")
      ->capture_default_str();
  declare_device_flags(app, flags->device);
  declare_rank_flags(app, flags->ranks);
  app.add_flag("--trust-remote-code", flags->trust_remote_code,
               "accepted; nothing remote is ever run");
  return [flags](Console& console, const comm::Communicator& world) {
    return run(*flags, console, world);
  };
}

}  // namespace vernier::cli
