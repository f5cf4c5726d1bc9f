// vernier bench: times of a network's linears on this machine, for searches under a budget of time.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <fstream>

#include "base/error.h"
#include "cli/command.h"
#include "cli/device_flags.h"
#include "cli/model_path.h"
#include "io/json.h"
#include "report/table.h"
#include "search/gemm_times.h"

namespace vernier::cli {
namespace {

using search::Candidate;
using search::ServingPhase;

struct Flags {
  std::string model;
  std::string gemm_table;
  std::string candidates = "bf16,fp8,nvfp4,w4a16_nvfp4";
  int64_t prefill_tokens = 4096;
  int64_t decode_tokens = 1;
  double max_seconds = 2;
  DeviceFlags device;
};

// Before the first measurement. Leaves what is there as it is.
void check_writable(const std::filesystem::path& path) {
  std::error_code ignored;
  const bool is_new = !std::filesystem::exists(path, ignored);
  const bool is_open = std::ofstream(path, std::ios::app).is_open();
  if (is_open && is_new) std::filesystem::remove(path, ignored);
  if (is_open) return;
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--gemm-table: {} cannot be written, expected the path of a file in a "
                          "directory that exists",
                          path.string()));
}

// Three digits: "4.27 ms", "12.9 µs".
std::string time_text(double seconds) {
  const auto text = [](double value, const char* unit) {
    return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, unit);
  };
  if (seconds < 1e-3) return text(seconds * 1e6, "µs");
  if (seconds < 1) return text(seconds * 1e3, "ms");
  return text(seconds, "s");
}

// The time, and how many times faster than with BF16.
void add_times(std::vector<std::string>& cells, double seconds, double bf16_seconds) {
  cells.push_back(time_text(seconds));
  cells.push_back(fmt::format("{:.2f}", bf16_seconds / seconds));
}

std::vector<std::string> table_row(const search::GemmTable& table, const search::GemmShape& shape,
                                   const search::GemmRow& row) {
  const search::GemmRow& bf16 = *table.find(shape.n, shape.k, shape.is_routed, nullptr);
  const bool is_first = &row == &bf16;
  std::vector<std::string> cells = {is_first ? fmt::format("{}x{}", shape.n, shape.k) : "",
                                    is_first ? fmt::format("{}", shape.count) : "",
                                    is_first ? fmt::format("{}", row.prefill_tokens) : "",
                                    row.weight_format, row.input_format};
  add_times(cells, row.prefill_seconds, bf16.prefill_seconds);
  add_times(cells, row.decode_seconds, bf16.decode_seconds);
  return cells;
}

// Of all linears of the network in a step, each in the candidate's format where it can be.
double network_seconds(const search::GemmTable& table, const std::vector<search::GemmShape>& shapes,
                       const Candidate* candidate, ServingPhase phase) {
  double total = 0;
  for (const search::GemmShape& shape : shapes) {
    const bool is_there = table.find(shape.n, shape.k, shape.is_routed, candidate) != nullptr;
    const search::ScoredGroup all{.is_routed = shape.is_routed,
                                  .shapes = {{shape.n, shape.k, shape.count, shape.active_share}}};
    total += table.seconds(all, is_there ? candidate : nullptr, phase);
  }
  return total;
}

// One row for each pair of formats that was measured.
std::vector<std::vector<std::string>> network_rows(
    const search::GemmTable& table, const std::vector<search::GemmShape>& shapes,
    const std::vector<const Candidate*>& candidates) {
  const auto seconds = [&](const Candidate* candidate, ServingPhase phase) {
    return network_seconds(table, shapes, candidate, phase);
  };
  std::vector<std::vector<std::string>> rows;
  for (const Candidate* candidate : search::distinct_formats(candidates)) {
    std::vector<std::string>& cells = rows.emplace_back();
    cells = {rows.size() == 1 ? "all" : "", "", "", search::weight_format_name(candidate),
             search::input_format_name(candidate)};
    for (const ServingPhase phase : {ServingPhase::kPrefill, ServingPhase::kDecode}) {
      add_times(cells, seconds(candidate, phase), seconds(nullptr, phase));
    }
  }
  return rows;
}

void print_table(const search::GemmTable& table, const std::vector<search::GemmShape>& shapes,
                 const std::vector<const Candidate*>& candidates, Console& console) {
  std::vector<std::vector<std::string>> rows;
  for (const search::GemmShape& shape : shapes) {
    for (const search::GemmRow& row : table.rows) {
      if (row.n != shape.n || row.k != shape.k || row.is_routed != shape.is_routed) continue;
      rows.push_back(table_row(table, shape, row));
    }
  }
  for (auto& row : network_rows(table, shapes, candidates)) rows.push_back(std::move(row));
  using report::Align;
  console.print(report::format_table({{"n x k", Align::kLeft},
                                      {"count"},
                                      {"tokens"},
                                      {"weights", Align::kLeft},
                                      {"inputs", Align::kLeft},
                                      {"prefill"},
                                      {"gain"},
                                      {"decode"},
                                      {"gain"}},
                                     rows, console.table_width()));
  console.print(fmt::format(
      "{}: a step prefills {} tokens or decodes {}. tokens: of a prefill step, that one\n"
      "linear sees (a routed expert: its share). Times of one linear; \"all\": of the\n"
      "network's, of experts those that are visited. gain: times faster than bf16.",
      table.device, table.prefill_tokens, table.decode_tokens));
}

int run(const Flags& flags, Console& console) {
  const std::vector<const Candidate*> candidates =
      with_context("--candidates", [&] { return search::parse_candidates(flags.candidates); });
  const std::filesystem::path config = find_model(flags.model) / "config.json";
  const std::unique_ptr<model::Model> model =
      model::open_model(io::read_json(config), config.string());
  check_writable(flags.gemm_table);
  const std::unique_ptr<Device> device = open_device(flags.device);
  const search::GemmTable table =
      search::measure_gemm_table({.model = *model,
                                  .candidates = candidates,
                                  .prefill_tokens = flags.prefill_tokens,
                                  .decode_tokens = flags.decode_tokens,
                                  .max_seconds = flags.max_seconds,
                                  .device_name = describe_device(device.get()),
                                  .device = device.get(),
                                  .progress = &console});
  search::write_gemm_table(table, flags.gemm_table);
  print_table(table, search::gemm_shapes(*model), candidates, console);
  console.print(fmt::format("next: vernier search --hf-model-id {} --gemm-table {} --prefill-ms N",
                            flags.model, flags.gemm_table));
  return 0;
}

}  // namespace

Action declare_bench(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("--gemm-table", flags->gemm_table,
                 "JSON file to write: times of every linear, for vernier search --gemm-table")
      ->required();
  app.add_option("--hf-model-id", flags->model,
                 "model whose shapes are measured: a directory, or an id in the local Hugging Face "
                 "cache; only config.json is read, weights are random")
      ->required();
  app.add_option("--prefill-tokens", flags->prefill_tokens, "tokens of a prefill step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--decode-tokens", flags->decode_tokens,
                 "tokens of a decoding step: sequences that decode together")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--candidates", flags->candidates,
                 "whose formats are measured, as for vernier search; nvfp4_sweep and "
                 "nvfp4_four_over_six take the time of nvfp4")
      ->capture_default_str();
  app.add_option("--max-seconds", flags->max_seconds,
                 "most seconds of measuring one linear in one format, beyond a first measurement")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  declare_device_flags(app, flags->device);
  return [flags](Console& console, const comm::Communicator&) { return run(*flags, console); };
}

}  // namespace vernier::cli
