#include "cli/calibration.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <string>
#include <vector>

#include "text/dataset.h"

namespace vernier::cli {

void declare_calibration_flags(CLI::App& app, CalibrationFlags& flags) {
  app.add_option("--calib-dataset", flags.dataset,
                 "calibration text: .txt or .jsonl, .zst or .xz allowed [a text in the program]");
  app.add_option("--calib-size", flags.size, "sequences")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--calib-seq-length", flags.seq_length, "tokens per sequence")
      ->check(CLI::Range(1, 131072))
      ->capture_default_str();
  app.add_option("--calib-batch-size", flags.batch_size,
                 "sequences per forward pass; 0: about 16384 tokens")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_option("--seed", flags.seed, "shuffle the documents with this seed [their order]")
      ->check(CLI::NonNegativeNumber);
}

runtime::Windows read_calibration(const CalibrationFlags& flags, const model::StoredModel& source,
                                  Console& console) {
  const text::Tokenizer tokenizer(source.directory / "tokenizer.json");
  text::WindowOptions options;
  options.n_windows = flags.size;
  options.window_tokens = flags.seq_length;
  if (!source.eos_token_ids.empty()) options.separator = source.eos_token_ids.front();
  if (!flags.seed.empty()) options.shuffle_seed = std::stoull(flags.seed);
  if (flags.dataset.empty()) {
    console.note(
        "no --calib-dataset: calibrating on the text in the program (the original recipe "
        "downloads one)");
  }
  const std::vector<std::string> documents =
      flags.dataset.empty() ? std::vector<std::string>{text::default_calibration_document()}
                            : text::read_documents(flags.dataset);
  runtime::Windows windows = text::make_windows(tokenizer, documents, options);
  if (static_cast<int64_t>(windows.size()) < flags.size) {
    console.note(
        fmt::format("the calibration text gives {} sequences of {} tokens, {} were asked "
                    "for",
                    windows.size(), flags.seq_length, flags.size));
  }
  return windows;
}

}  // namespace vernier::cli
