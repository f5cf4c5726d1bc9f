// vernier plan: every layout of some ranks that a model can be cut by, what a job takes on it, and
// the command line of the quickest that fits.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>

#include "base/error.h"
#include "base/file.h"
#include "cli/command.h"
#include "cli/model_path.h"
#include "io/json.h"
#include "report/table.h"
#include "report/units.h"
#include "runtime/layout_plan_search.h"

namespace vernier::cli {
namespace {

using runtime::LayoutPlan;
using runtime::StageOrder;

struct Flags {
  std::string model;
  int64_t n_gpus = 0;
  double gpu_gigabytes = 80;
  int64_t gpus_per_node = 8;
  int64_t calib_size = 512;
  int64_t calib_seq_length = 4096;
  double output_bits = runtime::LayoutJob().output_bits;
  std::string rates;
  std::string json;
};

// Of a device's memory a job takes no more, as vernier quantize without --max-device-memory.
constexpr double kUsedShare = 0.9;

runtime::MachineRates rates_of(const Flags& flags) {
  runtime::MachineRates rates;
  if (!flags.rates.empty()) rates = runtime::read_rates(io::read_json(flags.rates), flags.rates);
  rates.devices_per_machine = flags.gpus_per_node;
  return rates;
}

runtime::LayoutJob job_of(const Flags& flags) {
  return {.size = {.n_windows = flags.calib_size, .window_tokens = flags.calib_seq_length},
          .device_bytes = static_cast<int64_t>(flags.gpu_gigabytes * 1e9 * kUsedShare),
          .output_bits = flags.output_bits};
}

std::string layout_flags(const comm::Layout& layout) {
  return fmt::format("--tp {} --pp {} --ep {}", layout.tp(), layout.pp(), layout.ep());
}

std::string tenths(double value) { return fmt::format("{:.1f}", value); }
std::string gigabytes(int64_t bytes) { return tenths(static_cast<double>(bytes) / 1e9); }

std::vector<std::string> table_row(const LayoutPlan& plan) {
  const comm::Layout& layout = plan.layout;
  const runtime::LayoutSeconds& seconds = plan.seconds;
  const char* mark = plan.order == StageOrder::kBatchByBatch ? "*" : "";
  return {fmt::format("{}", layout.tp()),
          fmt::format("{}{}", layout.pp(), mark),
          fmt::format("{}", layout.ep()),
          fmt::format("{}", layout.dp()),
          gigabytes(plan.memory.total_bytes),
          gigabytes(plan.wire.total()),
          tenths(seconds.compute),
          tenths(seconds.wait),
          tenths(seconds.tensor_sums),
          tenths(seconds.expert_exchange),
          tenths(seconds.stage_to_stage + seconds.fill),
          tenths(seconds.encode + seconds.write),
          tenths(seconds.total())};
}

void print_table(const std::vector<LayoutPlan>& fitting, Console& console) {
  constexpr size_t kShown = 10;
  std::vector<std::vector<std::string>> rows;
  for (const LayoutPlan& plan : fitting) {
    if (rows.size() < kShown) rows.push_back(table_row(plan));
  }
  console.print(report::format_table({{"tp"},
                                      {"pp"},
                                      {"ep"},
                                      {"dp"},
                                      {"GB"},
                                      {"wire"},
                                      {"compute"},
                                      {"load"},
                                      {"sums"},
                                      {"moe"},
                                      {"stages"},
                                      {"write"},
                                      {"all"}},
                                     rows, console.table_width()));
  console.print(fmt::format(
      "GB: of device memory a rank; wire: GB that a rank sends. The rest are seconds: of\n"
      "compute, waiting for weights, tensor sums, the experts' exchange, between stages\n"
      "(*: they stay loaded and work at once; else one after another), packing and\n"
      "writing; all: with {:.1f} to start.",
      fitting.front().seconds.start));
}

std::string command_line(const Flags& flags, const comm::Layout& layout) {
  const std::string ranks = flags.n_gpus == 1 ? "" : fmt::format("mpirun -np {} ", flags.n_gpus);
  return fmt::format(
      "{}vernier quantize {} \\\n"
      "  --hf-model-id {} --calib-size {} --calib-seq-length {}",
      ranks, layout_flags(layout), flags.model, flags.calib_size, flags.calib_seq_length);
}

io::Json to_json(const LayoutPlan& plan) {
  const comm::Layout& layout = plan.layout;
  const runtime::LayoutSeconds& seconds = plan.seconds;
  return {{"tp", layout.tp()},
          {"pp", layout.pp()},
          {"ep", layout.ep()},
          {"dp", layout.dp()},
          {"stages_stay_loaded", plan.order == StageOrder::kBatchByBatch},
          {"hidden_states_on_device", plan.placement == runtime::HiddenPlacement::kDevice},
          {"device_bytes",
           {{"weights", plan.memory.weight_bytes},
            {"hidden_states", plan.memory.hidden_bytes},
            {"states", plan.memory.state_bytes},
            {"work", plan.memory.scratch_bytes},
            {"all", plan.memory.total_bytes}}},
          {"fits", plan.fits},
          {"wire_bytes",
           {{"tensor_sums", plan.wire.tensor_sums},
            {"expert_exchange", plan.wire.expert_exchange},
            {"stage_to_stage", plan.wire.stage_to_stage}}},
          {"loaded_bytes", plan.loaded_bytes},
          {"written_bytes", plan.written_bytes},
          {"seconds",
           {{"start", seconds.start},
            {"compute", seconds.compute},
            {"wait", seconds.wait},
            {"tensor_sums", seconds.tensor_sums},
            {"expert_exchange", seconds.expert_exchange},
            {"stage_to_stage", seconds.stage_to_stage},
            {"fill", seconds.fill},
            {"encode", seconds.encode},
            {"write", seconds.write},
            {"all", seconds.total()}}}};
}

void write_json(const Flags& flags, const std::vector<LayoutPlan>& plans,
                const runtime::MachineRates& rates) {
  io::Json layouts = io::Json::array();
  for (const LayoutPlan& plan : plans) layouts.push_back(to_json(plan));
  const io::Json json = {{"model", flags.model},
                         {"gpus", flags.n_gpus},
                         {"calib_size", flags.calib_size},
                         {"calib_seq_length", flags.calib_seq_length},
                         {"output_bits", flags.output_bits},
                         {"rates", runtime::to_json(rates)},
                         {"layouts", layouts}};
  write_file(flags.json, io::dump_json(json, 2) + "\n");
}

[[noreturn]] void refuse(const std::vector<LayoutPlan>& plans, const Flags& flags) {
  const LayoutPlan& least = *std::ranges::min_element(
      plans, {}, [](const LayoutPlan& plan) { return plan.memory.total_bytes; });
  throw Error(ErrorKind::kInvalidArgument,
              fmt::format("--gpu-memory {}: nine tenths of it are {} a rank, expected at least {}, "
                          "which {} takes, the least of {} layouts",
                          flags.gpu_gigabytes, report::format_bytes(job_of(flags).device_bytes),
                          report::format_bytes(least.memory.total_bytes),
                          layout_flags(least.layout), plans.size()));
}

int run(const Flags& flags, Console& console) {
  const runtime::MachineRates rates = rates_of(flags);
  const std::filesystem::path config = find_model(flags.model) / "config.json";
  const std::vector<LayoutPlan> plans = runtime::plan_layouts(
      io::read_json(config), config.string(), flags.n_gpus, job_of(flags), rates);
  if (plans.empty()) {
    throw Error(
        ErrorKind::kInvalidArgument,
        fmt::format("--gpus {}: no layout gives every rank a part of the network and one of "
                    "the {} sequences, expected fewer ranks or more sequences",
                    flags.n_gpus, flags.calib_size));
  }
  if (!flags.json.empty()) write_json(flags, plans, rates);
  std::vector<LayoutPlan> fitting;
  std::ranges::copy_if(plans, std::back_inserter(fitting), &LayoutPlan::fits);
  if (fitting.empty()) refuse(plans, flags);
  console.print(
      fmt::format("{} GPUs of {} GB, {} a node; {} sequences of {} tokens: {} of {} "
                  "layouts fit",
                  flags.n_gpus, flags.gpu_gigabytes, flags.gpus_per_node, flags.calib_size,
                  flags.calib_seq_length, fitting.size(), plans.size()));
  print_table(fitting, console);
  console.print("next: " + command_line(flags, fitting.front().layout));
  return 0;
}

}  // namespace

Action declare_plan(CLI::App& app) {
  auto flags = std::make_shared<Flags>();
  app.add_option("--hf-model-id", flags->model,
                 "model to plan for: a directory, or an id in the local Hugging Face cache; only "
                 "config.json is read")
      ->required();
  app.add_option("--gpus", flags->n_gpus, "ranks, one a GPU")
      ->check(CLI::Range(int64_t{1}, int64_t{4096}))
      ->required();
  app.add_option("--gpu-memory", flags->gpu_gigabytes,
                 "memory of a GPU in GB, of which nine "
                 "tenths are taken")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--gpus-per-node", flags->gpus_per_node, "GPUs of one machine")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--calib-size", flags->calib_size, "sequences")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--calib-seq-length", flags->calib_seq_length, "tokens per sequence")
      ->check(CLI::Range(1, 131072))
      ->capture_default_str();
  app.add_option(
         "--output-bits", flags->output_bits,
         "bits of an average weight in the output (vernier quantize --plan says a recipe's)")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rates", flags->rates,
                 "JSON object of rates that replace those of H100s (docs/howto/plan_ranks.md)");
  app.add_option("--json", flags->json, "file to write: every layout with all figures, and rates");
  return [flags](Console& console, const comm::Communicator&) { return run(*flags, console); };
}

}  // namespace vernier::cli
