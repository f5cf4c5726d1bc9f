// vernier evaluate: perplexity and divergence of several checkpoints, side by side.
#include "eval/evaluate.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "cli/command.h"
#include "cli/device_flags.h"
#include "cli/model_path.h"
#include "cli/opened_model.h"
#include "cli/rank_flags.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "report/table.h"
#include "report/units.h"
#include "runtime/memory_plan.h"
#include "text/dataset.h"

namespace vernier::cli {
namespace {

struct Flags {
  std::vector<std::string> models;
  std::string text;
  std::string token_ids;
  std::string json;
  std::string dump_logits;
  int64_t window = 512;
  int64_t n_windows = 64;
  bool no_kv_quant = false;
  DeviceFlags device;
  RankFlags ranks;
};

runtime::Windows read_windows(const Flags& flags, const std::filesystem::path& base) {
  if (!flags.token_ids.empty()) return read_token_ids(flags.token_ids);
  const text::Tokenizer tokenizer(base / "tokenizer.json");
  text::WindowOptions options;
  options.n_windows = flags.n_windows;
  options.window_tokens = flags.window;
  return text::make_windows(tokenizer, text::read_documents(flags.text), options);
}

// Logits of the last candidate as one F32 tensor [rows, tokens, vocabulary]. All rows must be
// equally long. Rows are gathered by window, since a safetensors tensor is written at once.
class LogitsDump {
 public:
  LogitsDump(const std::string& path, const runtime::Windows& windows, int64_t vocab_size,
             size_t candidate)
      : path_(path), candidate_(candidate) {
    const auto n_tokens = static_cast<int64_t>(windows[0].size());
    for (const auto& window : windows) {
      if (static_cast<int64_t>(window.size()) == n_tokens) continue;
      throw Error(
          ErrorKind::kInvalidArgument,
          fmt::format("--dump-logits: rows of {} and {} tokens, expected rows of one length",
                      n_tokens, window.size()));
    }
    logits_ = Tensor(DType::kF32, {static_cast<int64_t>(windows.size()), n_tokens, vocab_size});
  }

  void add(size_t candidate, int64_t first_position, ConstAnyMatrixView logits) {
    if (candidate != candidate_) return;
    const MatrixView all(logits_.as<float>().data(), logits_.shape()[0] * logits_.shape()[1],
                         logits_.shape()[2]);
    copy_matrix(logits, all.row_range(first_position, logits.rows));
  }

  void write() {
    io::SafetensorsWriter writer(path_, {{"logits", DType::kF32, logits_.shape()}});
    writer.write("logits", logits_.view().bytes());
    writer.finish();
  }

 private:
  std::string path_;
  size_t candidate_;
  Tensor logits_;
};

// "26.95 ±0.05": the standard error is that of the difference to the first model.
std::string with_error(double value, double standard_error, int digits) {
  return fmt::format("{:.{}f} ±{:.{}f}", value, digits, standard_error, digits);
}

std::vector<std::string> table_row(const model::StoredModel& stored, const eval::Score& score,
                                   bool is_baseline) {
  std::vector<std::string> row = {score.label, fmt::format("{:.2f}", bits_per_weight(stored)),
                                  report::format_bytes(safetensors_bytes(stored.directory))};
  if (is_baseline) {
    row.insert(row.end(), {fmt::format("{:.3f}", score.perplexity), "-", "-"});
  } else {
    const double perplexity_error = score.perplexity * score.nll_change.standard_error;
    row.insert(row.end(), {with_error(score.perplexity, perplexity_error, 3),
                           with_error(score.kl.mean, score.kl.standard_error, 4),
                           with_error(100 * score.top1_agreement.mean,
                                      100 * score.top1_agreement.standard_error, 1)});
  }
  return row;
}

io::Json json_row(const std::string& directory, const model::StoredModel& stored,
                  const eval::Score& score) {
  return {{"model", directory},
          {"label", score.label},
          {"format", format_summary(stored)},
          {"perplexity", score.perplexity},
          {"mean_nll", score.mean_nll},
          {"mean_nll_change", score.nll_change.mean},
          {"mean_nll_change_standard_error", score.nll_change.standard_error},
          {"kl", score.kl.mean},
          {"kl_standard_error", score.kl.standard_error},
          {"top1_agreement", score.top1_agreement.mean},
          {"top1_agreement_standard_error", score.top1_agreement.standard_error},
          {"bits_per_weight", bits_per_weight(stored)},
          {"size_bytes", safetensors_bytes(stored.directory)}};
}

void check(const Flags& flags) {
  if (flags.text.empty() == flags.token_ids.empty()) {
    throw Error(ErrorKind::kInvalidArgument,
                "evaluate needs either --text or --token-ids, found both or neither");
  }
}

void check_dump(const Flags& flags, const comm::Ranks& ranks) {
  if (flags.dump_logits.empty() || ranks.layout().dp() == 1) return;
  throw Error(ErrorKind::kUnsupported,
              fmt::format("--dump-logits: the windows are shared out to {} replicas, expected one "
                          "(--tp and --pp share the model out instead)",
                          ranks.layout().dp()));
}

int run(const Flags& flags, Console& console, const comm::Communicator& world) {
  check(flags);
  const RankSetup setup = set_up_ranks(flags.ranks, flags.device, world, console);
  const comm::Ranks& ranks = setup.ranks;
  check_dump(flags, ranks);
  Device* device = setup.device.get();
  std::vector<model::StoredModel> stored;
  std::vector<std::shared_ptr<const model::WeightSource>> weights;
  std::vector<eval::Candidate> candidates;
  for (const std::string& name : flags.models) {
    stored.push_back(open_any_checkpoint(find_model(name), &ranks));
    auto source =
        flags.no_kv_quant ? without_kv_format(stored.back().weights) : stored.back().weights;
    weights.push_back(share_on(device, std::move(source), ranks));
  }
  for (size_t index = 0; index < stored.size(); ++index) {
    candidates.push_back(
        {model_base_name(flags.models[index]), *stored[index].model, *weights[index]});
  }
  const runtime::Windows windows = read_windows(flags, stored[0].directory);
  const runtime::MemoryPlan plan =
      runtime::plan_memory(*stored[0].model,
                           {.n_windows = std::ssize(windows_of_replica(windows, ranks)),
                            .window_tokens = static_cast<int64_t>(windows[0].size()),
                            .n_passes = 2,
                            .decodes_weights = std::ranges::any_of(stored, decodes_weights)},
                           memory_limits(flags.device, device, "", setup.of_host));

  eval::EvaluateOptions options;
  options.stream.batch_windows = comm::least(ranks.world(), plan.batch_windows);
  options.stream.is_batch_major = ranks.layout().pp() > 1 && device == nullptr;
  options.stream.placement = plan.placement;
  options.progress = &console;
  std::unique_ptr<LogitsDump> dump;
  // Tensor ranks have the same logits: the first of the last stage writes them.
  const bool dumps = ranks.is_last_stage() && ranks.stage().rank() == 0;
  if (!flags.dump_logits.empty() && dumps) {
    dump = std::make_unique<LogitsDump>(flags.dump_logits, windows, stored[0].model->vocab_size(),
                                        stored.size() - 1);
    options.on_logits = [&](size_t candidate, int64_t first, ConstAnyMatrixView logits) {
      dump->add(candidate, first, logits);
    };
  }
  const std::vector<eval::Score> scores = eval::evaluate(candidates, windows, options);
  if (dump) dump->write();

  std::vector<std::vector<std::string>> rows;
  io::Json results = io::Json::array();
  for (size_t index = 0; index < scores.size(); ++index) {
    rows.push_back(table_row(stored[index], scores[index], index == 0));
    results.push_back(json_row(flags.models[index], stored[index], scores[index]));
  }
  console.print(report::format_table({{"model", report::Align::kLeft, true},
                                      {"bits/w"},
                                      {"size"},
                                      {"perplexity"},
                                      {"KL (nats)"},
                                      {"top-1 %"}},
                                     rows, console.table_width()));
  console.print(
      fmt::format("{} windows of {} tokens; ± is the standard error of the difference to "
                  "{}",
                  windows.size(), windows[0].size(), scores[0].label));
  if (!flags.json.empty() && world.rank() == 0) {
    const io::Json document = {{"text", flags.text.empty() ? flags.token_ids : flags.text},
                               {"windows", windows.size()},
                               {"window_tokens", windows[0].size()},
                               {"kv_quant", !flags.no_kv_quant},
                               {"computes_on", describe_device(device)},
                               {"results", results}};
    write_file(flags.json, document.dump(2) + "\n");
  }
  return 0;
}

}  // namespace

Action declare_evaluate(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("--model", flags->models,
                 "checkpoint (BF16, exported or sharded); repeat: the first is the baseline")
      ->required();
  app.add_option("--text", flags->text, "evaluation text: .txt or .jsonl, .zst or .xz allowed");
  app.add_option("--token-ids", flags->token_ids,
                 "JSON file with a list of lists of token ids, instead of text");
  app.add_option("--window", flags->window, "tokens per window")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--windows", flags->n_windows, "windows, from the start of the text")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  declare_device_flags(app, flags->device);
  declare_rank_flags(app, flags->ranks);
  app.add_flag("--no-kv-quant", flags->no_kv_quant, "leave out the checkpoints' KV-cache format");
  app.add_option("--json", flags->json, "also write the results to this file");
  app.add_option("--dump-logits", flags->dump_logits,
                 "write the last model's logits, F32 [rows, tokens, vocabulary], to this "
                 "safetensors file");
  return [flags](Console& console, const comm::Communicator& world) {
    return run(*flags, console, world);
  };
}

}  // namespace vernier::cli
