// vernier quantize: calibrate, quantize and write a checkpoint, then generate from it.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <chrono>

#include "base/error.h"
#include "base/file.h"
#include "calib/quantize_model.h"
#include "cli/byte_size.h"
#include "cli/command.h"
#include "cli/export_arithmetic.h"
#include "cli/export_dtype.h"
#include "cli/model_path.h"
#include "cli/opened_model.h"
#include "cli/quantize_flags.h"
#include "cli/quantize_tables.h"
#include "cli/search.h"
#include "cli/staged_output.h"
#include "export/hf_writer.h"
#include "export/sharded_checkpoint.h"
#include "quant/plan.h"
#include "report/units.h"
#include "runtime/layout_plan.h"
#include "runtime/memory_plan.h"

namespace vernier::cli {
namespace {

using Clock = std::chrono::steady_clock;

// What a plan on a machine without a device is for: nine tenths of 80 GB.
constexpr int64_t kH100Bytes = 72'000'000'000;

// A job as the flags describe it, resolved against the model but before any work.
struct Job {
  QuantizeFlags flags;
  const RankSetup& setup;
  model::StoredModel source;
  quant::Recipe recipe;
  quant::QuantPlan plan;
  runtime::Windows windows;      // of all replicas
  runtime::Windows own_windows;  // of this rank's
  runtime::MemoryPlan memory;
  bool keeps_stage = false;
};

quant::Recipe resolve_recipe(const QuantizeFlags& flags) {
  quant::Recipe recipe = quant::load_recipe(flags.recipe);
  if (flags.export_kv_cache_quant) quant::append_kv_preset(recipe, "fp8");
  if (!flags.kv_cache_format.empty()) quant::append_kv_preset(recipe, flags.kv_cache_format);
  if (!flags.mamba_ssm_cache_dtype.empty()) {
    recipe.mamba_ssm_cache_dtype = flags.mamba_ssm_cache_dtype;
  }
  return recipe;
}

// Whether this rank's stage stays in memory, so that all stages work at once. All ranks agree. A
// host maps its weights.
bool can_keep_stage(const Job& job) {
  const comm::Ranks& ranks = job.setup.ranks;
  if (ranks.layout().pp() == 1) return false;
  const Device* device = job.setup.device.get();
  const int64_t needed = bytes_of_share(job.source) + job.memory.device.total_bytes;
  const bool fits = device == nullptr || needed <= device->memory().free_bytes / 10 * 9;
  return comm::least(ranks.world(), fits ? 1 : 0) == 1;
}

Job prepare(const QuantizeFlags& flags, const RankSetup& setup, PhaseTimes& phases,
            Console& console) {
  const PhaseTimer timer(&phases, "open");
  const comm::Ranks& ranks = setup.ranks;
  Job job{flags, setup, open_unquantized(flags.model, &ranks), resolve_recipe(flags), {}, {}, {},
          {},    false};
  job.plan = quant::make_plan(job.recipe, job.source.model->tree(),
                              {flags.weight_only, flags.unquantizable == "bf16"});
  runtime::JobSize size;
  if (job.plan.needs_calibration()) {
    job.windows = read_calibration(flags.calibration, job.source, console);
    job.own_windows = windows_of_replica(job.windows, ranks);
    size = {.n_windows = std::ssize(job.own_windows),
            .window_tokens = static_cast<int64_t>(job.windows.front().size()),
            .decodes_weights = decodes_weights(job.source)};
  }
  job.memory = runtime::plan_memory(
      *job.source.model, size,
      memory_limits(flags.device, job.setup.device.get(), flags.max_memory, setup.of_host));
  job.memory.batch_windows = comm::least(ranks.world(), job.memory.batch_windows);
  if (flags.calibration.batch_size > 0) job.memory.batch_windows = flags.calibration.batch_size;
  job.keeps_stage = can_keep_stage(job);
  return job;
}

std::string layout_plan_summary(const Job& job) {
  const RankSetup& setup = job.setup;
  const runtime::StageOrder order =
      job.keeps_stage ? runtime::StageOrder::kBatchByBatch : runtime::StageOrder::kLayerByLayer;
  runtime::LayoutJob size{.size = {.n_windows = std::ssize(job.windows),
                                   .decodes_weights = decodes_weights(job.source)},
                          .output_bits = job.plan.bits_per_weight()};
  if (!job.windows.empty()) {
    size.size.window_tokens = static_cast<int64_t>(job.windows.front().size());
  }
  const runtime::MemoryLimits limits =
      memory_limits(job.flags.device, setup.device.get(), job.flags.max_memory, setup.of_host);
  size.device_bytes = setup.device == nullptr ? kH100Bytes : runtime::device_limit(limits);
  return layout_summary(runtime::LayoutPlanner(*job.source.model, size, runtime::MachineRates())
                            .plan(setup.ranks.layout(), order));
}

// Everything that decides output bytes: a staging directory of another identity is not continued.
io::Json identity_of(const Job& job) {
  return {{"command", "quantize"},
          {"source", std::filesystem::absolute(job.source.directory).string()},
          {"files", files_identity(*job.source.checkpoint)},
          {"plan", io::hash64(plan_fingerprint(job.plan))},
          {"calibration", text_identity(job.windows)},
          {"batch_windows", job.memory.batch_windows},
          {"layout", layout_identity(job.setup.ranks)},
          {"computes_on", describe_device(job.setup.device.get())},
          {"all_experts_ratio", job.flags.calib_all_experts_ratio},
          {"arithmetic", job.flags.export_arithmetic},
          {"dtype", job.flags.dtype},
          {"mamba_ssm_cache_dtype", job.recipe.mamba_ssm_cache_dtype},
          {"max_shard_size", job.flags.max_shard_size}};
}

struct Output {
  std::filesystem::path target;
  bool is_sharded;
};

std::vector<Output> outputs_of(const QuantizeFlags& flags) {
  std::vector<Output> outputs;
  std::string sharded_dir = flags.sharded_dir;
  if (sharded_dir.empty() && flags.export_dir.empty()) {
    const std::string cfg = std::filesystem::path(flags.recipe).stem().string();
    sharded_dir = model_base_name(flags.model) + "_quantized_" + cfg;
  }
  if (!sharded_dir.empty()) outputs.push_back({sharded_dir, true});
  if (!flags.export_dir.empty()) outputs.push_back({flags.export_dir, false});
  return outputs;
}

std::unique_ptr<quant::QuantizedSink> make_sink(const Job& job, bool is_sharded,
                                                const std::filesystem::path& directory,
                                                bool resume) {
  const model::ModuleTree& tree = job.source.model->tree();
  std::vector<io::TensorDecl> tensors;
  for (const std::string& name : job.source.checkpoint->names()) {
    const TensorView tensor = job.source.checkpoint->tensor(name);
    tensors.push_back({name, tensor.dtype, tensor.shape});
  }
  const formats::Arithmetic arithmetic = parse_arithmetic(job.flags.export_arithmetic);
  if (is_sharded) {
    exporting::ShardedWriterOptions options;
    options.directory = directory;
    options.source = job.source.directory;
    options.recipe_name = job.recipe.name;
    options.arithmetic = arithmetic;
    options.mamba_ssm_cache_dtype = job.recipe.mamba_ssm_cache_dtype;
    options.layout = job.setup.ranks.layout();
    options.resume = resume;
    return exporting::make_sharded_writer(options, tree, job.plan, tensors);
  }
  exporting::HfWriterOptions options;
  options.directory = directory;
  options.source = job.source.directory;
  options.max_shard_bytes = parse_byte_size("--max-shard-size", job.flags.max_shard_size);
  options.arithmetic = arithmetic;
  options.mamba_ssm_cache_dtype = job.recipe.mamba_ssm_cache_dtype;
  options.dtype = parse_export_dtype(job.flags.dtype);
  options.resume = resume;
  return exporting::make_hf_writer(options, tree, job.plan, tensors);
}

std::vector<std::unique_ptr<quant::QuantizedSink>> make_sinks(const Job& job,
                                                              const StagedOutputs& staged,
                                                              const std::vector<Output>& outputs,
                                                              PhaseTimes& phases) {
  const PhaseTimer timer(&phases, "reserve files");
  return make_on_all(job.setup.ranks.world(), staged.is_resumed(), [&](bool resume) {
    std::vector<std::unique_ptr<quant::QuantizedSink>> sinks;
    for (size_t index = 0; index < outputs.size(); ++index) {
      sinks.push_back(
          make_sink(job, outputs[index].is_sharded, staged.staging_path(index), resume));
    }
    return sinks;
  });
}

calib::QuantizeReport run_job(const Job& job, StagedOutputs& staged,
                              const std::vector<Output>& outputs, PhaseTimes& phases,
                              Console& console) {
  const std::vector<std::unique_ptr<quant::QuantizedSink>> sinks =
      make_sinks(job, staged, outputs, phases);
  const auto weights = share_on(job.setup.device.get(), job.source.weights, job.setup.ranks);
  const auto whole_weights = weights_on(job.setup.device.get(), job.source.weights);
  calib::QuantizeJob quantize{.model = *job.source.model,
                              .weights = *weights,
                              .checkpoint = *job.source.checkpoint,
                              .plan = job.plan,
                              .sinks = {},
                              .windows = job.own_windows};
  for (const auto& sink : sinks) quantize.sinks.push_back(sink.get());
  quantize.stream.batch_windows = std::max<int64_t>(job.memory.batch_windows, 1);
  quantize.stream.placement = job.memory.placement;
  quantize.stream.spill_directory = staged.staging_path(0);
  quantize.all_experts_ratio = job.flags.calib_all_experts_ratio;
  quantize.arithmetic = parse_arithmetic(job.flags.export_arithmetic);
  quantize.journal = staged.journal();
  if (job.setup.ranks.layout().tp() > 1) quantize.whole_weights = whole_weights.get();
  quantize.stream.is_batch_major = job.keeps_stage;
  quantize.progress = &console;
  quantize.phases = &phases;
  return calib::quantize_model(quantize);
}

// An error in the middle keeps what is finished; whoever says so, on any rank, tells how to go on.
calib::QuantizeReport run_with_advice(const Job& job, StagedOutputs& staged,
                                      const std::vector<Output>& outputs, PhaseTimes& phases,
                                      Console& console) {
  try {
    return run_job(job, staged, outputs, phases, console);
  } catch (const Error& error) {
    throw Error(error.kind(),
                fmt::format("{}; finished layers are kept in {}, the same command goes on there",
                            error.message(), staged.staging_path(0).string()));
  }
}

void generate_afterwards(const Job& job, const std::filesystem::path& output, Console& console) {
  if (job.flags.skip_generate) return;
  const model::StoredModel quantized = open_any_checkpoint(output, &job.setup.ranks);
  if (!stays_resident(quantized, job.setup.device.get())) {
    console.note(
        "the quantized model is larger than memory, which would stream it once a token: "
        "not generating (vernier generate does it later)");
    return;
  }
  console.print("\ngenerating from the quantized model");
  generate_all(quantized, job.setup.device.get(), job.flags.generation, console);
}

// The flags with the recipe that a search found. The search's directory stays: it is beside the
// output, and a second run of the command takes its recipe as it is.
QuantizeFlags with_searched_recipe(QuantizeFlags flags, Console& console,
                                   const comm::Communicator& world) {
  SearchFlags search{.model = flags.model,
                     .bits = {flags.auto_quantize_bits},
                     .calibration = flags.calibration,
                     .export_arithmetic = flags.export_arithmetic,
                     .ranks = flags.ranks,
                     .device = flags.device,
                     .max_memory = flags.max_memory,
                     .plan_only = flags.plan_only,
                     .restart = flags.restart};
  const std::string output = !flags.export_dir.empty()    ? flags.export_dir
                             : !flags.sharded_dir.empty() ? flags.sharded_dir
                                                          : model_base_name(flags.model);
  search.output = fmt::format("{}_search_{:g}", output, flags.auto_quantize_bits);
  const std::filesystem::path recipe = search_recipe(search);
  if (std::filesystem::exists(recipe)) {
    console.note(
        fmt::format("taking {} of an earlier search; remove it to search again", recipe.string()));
  } else {
    run_search(search, console, world);
  }
  flags.recipe = recipe.string();
  return flags;
}

int run(const QuantizeFlags& given, Console& console, const comm::Communicator& world) {
  const Clock::time_point start = Clock::now();
  check_quantize_flags(given);
  const QuantizeFlags flags =
      given.auto_quantize_bits > 0 ? with_searched_recipe(given, console, world) : given;
  if (!std::filesystem::exists(flags.recipe) && given.auto_quantize_bits > 0) return 0;  // --plan
  const RankSetup setup = set_up_ranks(flags.ranks, flags.device, world, console);
  PhaseTimes phases;
  const Job job = prepare(flags, setup, phases, console);
  console.print(coverage_tables(job.plan, job.source.model->tree(), console.table_width()));
  const std::vector<Output> outputs = outputs_of(flags);
  console.print(plan_summary(job.plan, job.memory, *job.source.checkpoint, job.windows));
  if (flags.plan_only) {
    if (world.size() > 1) console.print(layout_plan_summary(job));
    return 0;
  }

  std::vector<std::filesystem::path> targets;
  for (const Output& output : outputs) targets.push_back(output.target);
  StagedOutputs staged(targets, identity_of(job), flags.restart, setup.ranks);
  note_if_resumed(staged, console);
  const calib::QuantizeReport report = run_with_advice(job, staged, outputs, phases, console);
  staged.commit();
  console.print(report_tables(report, console.table_width()));
  if (!flags.report.empty() && world.rank() == 0) {
    write_file(flags.report, calib::to_json(report).dump(2) + "\n");
  }
  for (const Output& output : outputs) {
    console.print(fmt::format("wrote {} ({})", output.target.string(),
                              output.is_sharded ? "sharded" : "Hugging Face"));
  }
  console.print(time_summary(std::chrono::duration<double>(Clock::now() - start).count(), phases,
                             job.setup.device.get()));
  generate_afterwards(job, outputs.back().target, console);
  return 0;
}

}  // namespace

Action declare_quantize(CLI::App& app) {
  auto flags = std::make_shared<QuantizeFlags>();
  declare_quantize_flags(app, *flags);
  return [flags](Console& console, const comm::Communicator& world) {
    return run(*flags, console, world);
  };
}

}  // namespace vernier::cli
