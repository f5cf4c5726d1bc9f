#include "cli/search_flags.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "base/error.h"

namespace vernier::cli {
namespace {

void declare_budgets(CLI::App& app, SearchFlags& flags) {
  app.add_option("--auto-quantize-bits,--bits", flags.bits,
                 "stored bits a weight over all linear modules; several, separated by commas: one "
                 "recipe each")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app.add_option("--active-bits", flags.active_bits,
                 "most bits a weight of those that one token reads (experts by their share)")
      ->check(CLI::PositiveNumber);
  app.add_option("--prefill-ms", flags.prefill_ms,
                 "most milliseconds of the linears in a prefill step; needs --gemm-table")
      ->check(CLI::PositiveNumber);
  app.add_option("--decode-ms", flags.decode_ms,
                 "most milliseconds of the linears in a decoding step; needs --gemm-table")
      ->check(CLI::PositiveNumber);
  app.add_option("--gemm-table", flags.gemm_table,
                 "times of products, from vernier bench --gemm-table");
}

void declare_choices(CLI::App& app, SearchFlags& flags) {
  app.add_option("--candidates", flags.candidates,
                 "what a group may become: bf16, fp8, nvfp4, nvfp4_sweep, nvfp4_four_over_six, "
                 "w4a16_nvfp4")
      ->capture_default_str();
  app.add_option("--candidates-for", flags.candidates_for,
                 "PATTERN=LIST: the candidates of modules that match; repeat");
  app.add_option("--disable", flags.disabled, "modules that stay as they are (pattern); repeat");
  app.add_option("--exclude-from-cost", flags.uncounted,
                 "modules that count in no budget (pattern); repeat");
  app.add_option(
      "--fixed", flags.fixed,
      "recipe: the modules that it quantizes keep its decision, the others are searched");
}

void declare_measuring(CLI::App& app, SearchFlags& flags) {
  declare_calibration_flags(app, flags.calibration);
  app.add_option(
         "--method", flags.method,
         "gauss-newton: curvature of the KL divergence, no labels; fisher: gradients of the "
         "cross-entropy, as published; replacement: the true KL of every single change on "
         "the validation sequences, slow")
      ->check(CLI::IsMember({"gauss-newton", "fisher", "replacement"}))
      ->capture_default_str();
  app.add_flag("--all-scores", flags.all_scores, "measure the scores of both gradients");
  app.add_option("--score-tokens", flags.score_tokens, "share of tokens on which candidates run")
      ->check(CLI::Range(0.001, 1.0))
      ->capture_default_str();
  app.add_option("--refine-trials", flags.refine_trials,
                 "swaps whose true KL is measured, a round; 0: none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--refine-rounds", flags.refine_rounds, "rounds of swaps, each on the best so far")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--validation-size", flags.validation_size,
                 "calibration sequences on which the true KL is measured; 0: it is not")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--export-arithmetic", flags.export_arithmetic,
                 "whose divisions the scales repeat: cuda or cpu, as for vernier quantize")
      ->check(CLI::IsMember({"cuda", "cpu"}))
      ->capture_default_str();
}

}  // namespace

void declare_search_flags(CLI::App& app, SearchFlags& flags) {
  app.add_option("--hf-model-id", flags.model,
                 "BF16 checkpoint: a directory, or an id in the local Hugging Face cache");
  app.add_option("--scores", flags.scores,
                 "scores.json of an earlier search: choose again without measuring");
  app.add_option("--output-dir", flags.output,
                 "directory to create: scores, recipes, report [{model}_search]");
  declare_budgets(app, flags);
  declare_choices(app, flags);
  declare_measuring(app, flags);
  declare_rank_flags(app, flags.ranks);
  declare_device_flags(app, flags.device);
  app.add_option("--max-memory", flags.max_memory,
                 "memory the job may allocate (8GB) [60 % of what is free]");
  app.add_flag("--plan", flags.plan_only, "print groups, memory and work, then stop");
  app.add_flag("--restart", flags.restart, "discard what an interrupted run left, start over");
}

void check_search_flags(const SearchFlags& flags) {
  const auto fail = [](const std::string& what) { throw Error(ErrorKind::kInvalidArgument, what); };
  if (flags.model.empty() && flags.scores.empty()) {
    fail("search needs --hf-model-id, or --scores of an earlier search, found neither");
  }
  if (flags.bits.empty() && flags.active_bits == 0 && flags.prefill_ms == 0 &&
      flags.decode_ms == 0) {
    fail("search needs a budget: --auto-quantize-bits, --active-bits, --prefill-ms or --decode-ms");
  }
  if ((flags.prefill_ms > 0 || flags.decode_ms > 0) && flags.gemm_table.empty()) {
    fail("--prefill-ms and --decode-ms need --gemm-table, found none");
  }
  if (flags.method == "replacement" && flags.validation_size == 0) {
    fail("--method replacement needs a --validation-size, found 0");
  }
  if (!flags.fixed.empty() && flags.model.empty()) {
    fail("--fixed needs --hf-model-id, since a recipe's rules are about a network");
  }
}

}  // namespace vernier::cli
