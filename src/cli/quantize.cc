// vernier quantize: calibrate, quantize and write a checkpoint, then generate from it.
#include <fmt/format.h>

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
#include "runtime/memory_plan.h"

namespace vernier::cli {
namespace {

using Clock = std::chrono::steady_clock;

// A job as the flags describe it, resolved against the model but before any work.
struct Job {
  QuantizeFlags flags;
  std::unique_ptr<Device> device;  // null: the host computes
  model::StoredModel source;
  quant::Recipe recipe;
  quant::QuantPlan plan;
  runtime::Windows windows;
  runtime::MemoryPlan memory;
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

Job prepare(const QuantizeFlags& flags, PhaseTimes& phases, Console& console) {
  const PhaseTimer timer(&phases, "open");
  Job job{flags,
          open_device(flags.device),
          open_unquantized(flags.model),
          resolve_recipe(flags),
          {},
          {},
          {}};
  job.plan = quant::make_plan(job.recipe, job.source.model->tree(),
                              {flags.weight_only, flags.unquantizable == "bf16"});
  runtime::JobSize size;
  if (job.plan.needs_calibration()) {
    job.windows = read_calibration(flags.calibration, job.source, console);
    size = {.n_windows = static_cast<int64_t>(job.windows.size()),
            .window_tokens = static_cast<int64_t>(job.windows.front().size()),
            .decodes_weights = decodes_weights(job.source)};
  }
  job.memory = runtime::plan_memory(
      *job.source.model, size, memory_limits(flags.device, job.device.get(), flags.max_memory));
  if (flags.calibration.batch_size > 0) job.memory.batch_windows = flags.calibration.batch_size;
  return job;
}

// Everything that decides output bytes: a staging directory of another identity is not continued.
io::Json identity_of(const Job& job) {
  return {{"command", "quantize"},
          {"source", std::filesystem::absolute(job.source.directory).string()},
          {"files", files_identity(*job.source.checkpoint)},
          {"plan", io::hash64(plan_fingerprint(job.plan))},
          {"calibration", text_identity(job.windows)},
          {"batch_windows", job.memory.batch_windows},
          {"computes_on", describe_device(job.device.get())},
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

calib::QuantizeReport run_job(const Job& job, StagedOutputs& staged,
                              const std::vector<Output>& outputs, PhaseTimes& phases,
                              Console& console) {
  std::vector<std::unique_ptr<quant::QuantizedSink>> sinks;
  for (size_t index = 0; index < outputs.size(); ++index) {
    const PhaseTimer timer(&phases, "reserve files");
    sinks.push_back(
        make_sink(job, outputs[index].is_sharded, staged.staging_path(index), staged.is_resumed()));
  }
  const auto weights = weights_on(job.device.get(), job.source.weights);
  calib::QuantizeJob quantize{.model = *job.source.model,
                              .weights = *weights,
                              .checkpoint = *job.source.checkpoint,
                              .plan = job.plan,
                              .sinks = {},
                              .windows = job.windows};
  for (const auto& sink : sinks) quantize.sinks.push_back(sink.get());
  quantize.stream.batch_windows = std::max<int64_t>(job.memory.batch_windows, 1);
  quantize.stream.placement = job.memory.placement;
  quantize.stream.spill_directory = staged.staging_path(0);
  quantize.all_experts_ratio = job.flags.calib_all_experts_ratio;
  quantize.arithmetic = parse_arithmetic(job.flags.export_arithmetic);
  quantize.journal = &staged.journal();
  quantize.progress = &console;
  quantize.phases = &phases;
  return calib::quantize_model(quantize);
}

// An error in the middle keeps what is finished; the reader is told how to go on.
calib::QuantizeReport run_with_advice(const Job& job, StagedOutputs& staged,
                                      const std::vector<Output>& outputs, PhaseTimes& phases,
                                      Console& console) {
  try {
    return run_job(job, staged, outputs, phases, console);
  } catch (const Error&) {
    if (staged.journal().size() > 0) {
      console.note(fmt::format("finished layers are kept in {}; the same command goes on there",
                               staged.staging_path(0).string()));
    }
    throw;
  }
}

void generate_afterwards(const Job& job, const std::filesystem::path& output, Console& console) {
  if (job.flags.skip_generate) return;
  const model::StoredModel quantized = open_any_checkpoint(output);
  if (!stays_resident(quantized, job.device.get())) {
    console.note(
        "the quantized model is larger than memory, which would stream it once a token: "
        "not generating (vernier generate does it later)");
    return;
  }
  console.print("\ngenerating from the quantized model");
  generate_all(quantized, job.device.get(), job.flags.generation, console);
}

// The flags with the recipe that a search found. The search's directory stays: it is beside the
// output, and a second run of the command takes its recipe as it is.
QuantizeFlags with_searched_recipe(QuantizeFlags flags, Console& console) {
  SearchFlags search{.model = flags.model,
                     .bits = {flags.auto_quantize_bits},
                     .calibration = flags.calibration,
                     .export_arithmetic = flags.export_arithmetic,
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
    run_search(search, console);
  }
  flags.recipe = recipe.string();
  return flags;
}

int run(const QuantizeFlags& given, Console& console) {
  const Clock::time_point start = Clock::now();
  check_quantize_flags(given);
  const QuantizeFlags flags =
      given.auto_quantize_bits > 0 ? with_searched_recipe(given, console) : given;
  if (!std::filesystem::exists(flags.recipe) && given.auto_quantize_bits > 0) return 0;  // --plan
  PhaseTimes phases;
  const Job job = prepare(flags, phases, console);
  console.print(coverage_tables(job.plan, job.source.model->tree(), console.table_width()));
  const std::vector<Output> outputs = outputs_of(flags);
  console.print(plan_summary(job.plan, job.memory, *job.source.checkpoint, job.windows));
  if (flags.plan_only) return 0;

  std::vector<std::filesystem::path> targets;
  for (const Output& output : outputs) targets.push_back(output.target);
  StagedOutputs staged(targets, identity_of(job), flags.restart);
  note_if_resumed(staged, console);
  const calib::QuantizeReport report = run_with_advice(job, staged, outputs, phases, console);
  staged.commit();
  console.print(report_tables(report, console.table_width()));
  if (!flags.report.empty()) write_file(flags.report, calib::to_json(report).dump(2) + "\n");
  for (const Output& output : outputs) {
    console.print(fmt::format("wrote {} ({})", output.target.string(),
                              output.is_sharded ? "sharded" : "Hugging Face"));
  }
  console.print(time_summary(std::chrono::duration<double>(Clock::now() - start).count(), phases,
                             job.device.get()));
  generate_afterwards(job, outputs.back().target, console);
  return 0;
}

}  // namespace

Action declare_quantize(CLI::App& app) {
  auto flags = std::make_shared<QuantizeFlags>();
  declare_quantize_flags(app, *flags);
  return [flags](Console& console) { return run(*flags, console); };
}

}  // namespace vernier::cli
