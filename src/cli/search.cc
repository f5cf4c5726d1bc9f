// vernier search: sensitivities, the frontier, and a recipe for each budget.
#include "cli/search.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/file.h"
#include "cli/command.h"
#include "cli/export_arithmetic.h"
#include "cli/model_path.h"
#include "cli/opened_model.h"
#include "cli/quantize_tables.h"
#include "cli/rank_flags.h"
#include "cli/staged_output.h"
#include "quant/plan.h"
#include "report/units.h"
#include "search/fixed.h"
#include "search/refine.h"
#include "search/search_plan.h"
#include "search/search_report.h"

namespace vernier::cli {
namespace {

using Clock = std::chrono::steady_clock;

// A model and the text on which it is measured; without a model, scores are all there is.
struct Subject {
  const RankSetup& setup;
  model::StoredModel source;
  std::shared_ptr<const model::WeightSource> weights;
  runtime::Windows windows;
  search::SearchPlan plan;
};

std::vector<const search::Candidate*> quantizing_candidates(const SearchFlags& flags) {
  std::vector<const search::Candidate*> candidates = search::parse_candidates(flags.candidates);
  std::erase_if(candidates, [](const search::Candidate* row) { return !row->is_quantized(); });
  if (candidates.empty()) {
    throw Error(ErrorKind::kInvalidArgument,
                "--candidates: none of them quantizes, expected at least one that does");
  }
  return candidates;
}

search::ScoreKinds kinds_of(const SearchFlags& flags) {
  const bool is_fisher = flags.method == "fisher";
  return {.fisher = is_fisher || flags.all_scores, .gauss_newton = !is_fisher || flags.all_scores};
}

bool allows_unquantized(const SearchFlags& flags) {
  return std::ranges::any_of(search::parse_candidates(flags.candidates),
                             [](const search::Candidate* row) { return !row->is_quantized(); });
}

// `earlier`: scores that must be of this model.
std::optional<Subject> open_subject(const SearchFlags& flags,
                                    const std::optional<search::Scores>& earlier,
                                    const RankSetup& setup, Console& console) {
  if (flags.model.empty()) return std::nullopt;
  Subject subject{setup, open_unquantized(flags.model, &setup.ranks), {}, {}, {}};
  if (earlier) search::check_same_network(*earlier, subject.source.model->tree(), flags.scores);
  subject.weights = share_on(setup.device.get(), subject.source.weights, setup.ranks);
  subject.windows = read_calibration(flags.calibration, subject.source, console);
  subject.plan = search::plan_search(
      *subject.source.model, std::ssize(windows_of_replica(subject.windows, setup.ranks)),
      std::ssize(subject.windows.front()), std::ssize(quantizing_candidates(flags)),
      flags.score_tokens,
      memory_limits(flags.device, setup.device.get(), flags.max_memory, setup.of_host));
  subject.plan.batch_windows = comm::least(setup.ranks.world(), subject.plan.batch_windows);
  subject.plan.chunk_windows = comm::least(setup.ranks.world(), subject.plan.chunk_windows);
  if (flags.calibration.batch_size > 0) subject.plan.batch_windows = flags.calibration.batch_size;
  return subject;
}

void print_plan(const Subject& subject, Console& console) {
  const auto groups = search::make_groups(subject.source.model->tree());
  console.print(fmt::format(
      "{} groups; {} sequences of {} tokens in {} chunk{}{}\nmemory for layer inputs {}{}; about "
      "{:.3g} TFLOP",
      groups.size(), subject.windows.size(), subject.windows.front().size(), subject.plan.n_chunks,
      subject.plan.n_chunks == 1 ? "" : "s",
      subject.setup.ranks.layout().dp() == 1 ? "" : " a replica",
      report::format_bytes(subject.plan.kept_bytes),
      subject.setup.device == nullptr
          ? std::string()
          : fmt::format("; device memory {}", report::format_bytes(subject.plan.device_bytes)),
      static_cast<double>(subject.plan.flops) / 1e12));
}

// Everything that decides scores and recipes.
io::Json identity_of(const SearchFlags& flags, const std::optional<Subject>& subject) {
  return {{"command", "search"},
          {"source", subject ? std::filesystem::absolute(subject->source.directory).string() : ""},
          {"files", subject ? files_identity(*subject->source.checkpoint) : io::Json::array()},
          {"scores", flags.scores},
          {"calibration", text_identity(subject ? subject->windows : runtime::Windows())},
          {"candidates", flags.candidates},
          {"fisher", kinds_of(flags).fisher},
          {"gauss_newton", kinds_of(flags).gauss_newton},
          {"score_tokens", flags.score_tokens},
          {"chunk_windows", subject ? subject->plan.chunk_windows : 0},
          {"layout", subject ? layout_identity(subject->setup.ranks) : io::Json()},
          {"batch_windows", subject ? subject->plan.batch_windows : 0},
          {"computes_on", subject ? describe_device(subject->setup.device.get()) : ""},
          {"arithmetic", flags.export_arithmetic}};
}

runtime::Windows first_windows(const runtime::Windows& windows, int64_t count) {
  const auto n = std::min<int64_t>(count, std::ssize(windows));
  return {windows.begin(), windows.begin() + n};
}

search::JointLoss joint_loss(const SearchFlags& flags, const Subject& subject,
                             const search::Scores& scores, const runtime::Windows& windows,
                             Console& console) {
  runtime::StreamOptions stream;
  stream.batch_windows = subject.plan.batch_windows;
  return search::JointLoss(*subject.source.model, *subject.weights, scores, windows, stream,
                           parse_arithmetic(flags.export_arithmetic), &console);
}

search::SensitivityJob job_of(const SearchFlags& flags, const Subject& subject) {
  return {.model = *subject.source.model,
          .weights = *subject.weights,
          .candidates = quantizing_candidates(flags),
          .windows = subject.windows,
          .chunk_windows = subject.plan.chunk_windows,
          .batch_windows = subject.plan.batch_windows,
          .placement = subject.plan.placement,
          .kinds = kinds_of(flags),
          .score_tokens = flags.score_tokens,
          .arithmetic = parse_arithmetic(flags.export_arithmetic)};
}

search::Scores measure(const SearchFlags& flags, const Subject& subject, StagedOutputs& staged,
                       PhaseTimes& phases, Console& console) {
  search::SensitivityJob job = job_of(flags, subject);
  job.spill_directory = staged.staging_path(0);
  job.journal = staged.journal();
  job.progress = &console;
  job.phases = &phases;
  search::Scores scores = search::make_scores(job, search::measure_sensitivity(job));
  scores.model = model_base_name(flags.model);
  if (flags.method == "replacement") {
    const runtime::Windows windows = first_windows(subject.windows, flags.validation_size);
    search::measure_replacement(joint_loss(flags, subject, scores, windows, console), scores);
  }
  return scores;
}

// "PATTERN=fp8,bf16".
search::CandidateList parse_list(const std::string& text) {
  const size_t at = text.rfind('=');
  if (at == std::string::npos || at == 0 || at + 1 == text.size()) {
    throw Error(
        ErrorKind::kInvalidArgument,
        fmt::format("--candidates-for: found \"{}\", expected PATTERN=CANDIDATE,...", text));
  }
  return {text.substr(0, at), search::parse_candidates(text.substr(at + 1))};
}

search::Restrictions restrictions_of(const SearchFlags& flags, const search::Scores& scores,
                                     const std::optional<Subject>& subject) {
  search::Restrictions restrictions{.disabled = flags.disabled,
                                    .uncounted = flags.uncounted,
                                    .lists = {},
                                    .allows_unquantized = allows_unquantized(flags)};
  for (const std::string& text : flags.candidates_for) {
    restrictions.lists.push_back(parse_list(text));
  }
  if (flags.fixed.empty()) return restrictions;
  const model::ModuleTree& tree = subject->source.model->tree();
  const quant::QuantPlan plan = quant::make_plan(quant::load_recipe(flags.fixed), tree, {});
  for (search::CandidateList& list : search::fixed_lists(plan, scores.candidates, tree)) {
    restrictions.lists.push_back(std::move(list));
  }
  return restrictions;
}

struct NamedBudget {
  std::string name;  // "4.75 bits a weight"
  std::string file;  // "recipe_4.75_bits.yaml"
  search::Budget budget;
};

std::vector<NamedBudget> budgets_of(const SearchFlags& flags) {
  search::Budget common;
  std::string others;
  const auto add = [&](double value, double scale, std::optional<double>& limit, const char* unit) {
    if (value == 0) return;
    limit = value * scale;
    others += fmt::format("{}{:g} {}", others.empty() ? "" : ", ", value, unit);
  };
  add(flags.active_bits, 1, common.active_bits, "active bits a weight");
  add(flags.prefill_ms, 1e-3, common.prefill_seconds, "ms of prefill");
  add(flags.decode_ms, 1e-3, common.decode_seconds, "ms of decoding");
  if (flags.bits.empty()) return {{others, "recipe.yaml", common}};
  std::vector<double> bits = flags.bits;
  std::ranges::sort(bits);
  std::vector<NamedBudget> budgets;
  for (const double value : bits) {
    NamedBudget& budget = budgets.emplace_back();
    budget.budget = common;
    budget.budget.bits = value;
    budget.name = fmt::format("{:g} bits a weight{}{}", value, others.empty() ? "" : ", ", others);
    budget.file = fmt::format("recipe_{:g}_bits.yaml", value);
  }
  return budgets;
}

// A search after its scores are there.
class Choosing {
 public:
  Choosing(const SearchFlags& flags, const std::optional<Subject>& subject,
           const search::Scores& scores, const search::Allocator& allocator,
           const std::vector<search::Allocator>& others, Console& console)
      : flags_(flags), scores_(scores), allocator_(allocator), others_(others) {
    if (!subject || flags.validation_size == 0) return;
    windows_ = first_windows(subject->windows, flags.validation_size);
    loss_.emplace(joint_loss(flags, *subject, scores, windows_, console));
  }

  search::SearchReport run() {
    search::SearchReport report{.scores = scores_,
                                .allocator = allocator_,
                                .kind = search::parse_score_kind(flags_.method)};
    report.frontier = allocator_.frontier();
    for (const NamedBudget& budget : budgets_of(flags_))
      report.allocations.push_back(choose(budget));
    report.comparisons = compare(report.allocations);
    return report;
  }

 private:
  search::ReportedAllocation choose(const NamedBudget& named) const {
    std::vector<search::Allocation> starts = {allocator_.best(named.budget)};
    search::ReportedAllocation reported{
        .budget = named.name, .allocation = starts.front(), .recipe_file = named.file};
    if (!loss_) return reported;
    for (const search::Allocator& other : others_) starts.push_back(other.best(named.budget));
    const int64_t n_rounds = flags_.refine_trials == 0 ? 0 : flags_.refine_rounds;
    const search::Refined refined =
        search::refine(allocator_, named.budget, starts, *loss_, {n_rounds, flags_.refine_trials});
    reported.allocation = refined.allocation;
    reported.measured_kl = refined.after;
    reported.n_swaps = refined.n_swaps;
    return reported;
  }

  // Prediction against measurement: of the choices, and of every candidate everywhere.
  std::vector<search::Comparison> compare(
      const std::vector<search::ReportedAllocation>& chosen) const {
    std::vector<search::Comparison> comparisons;
    if (!loss_) return comparisons;
    for (const search::ReportedAllocation& reported : chosen) {
      comparisons.push_back({reported.budget, reported.allocation.bits,
                             reported.allocation.predicted_kl, reported.measured_kl->mean});
    }
    std::vector<search::Assignment> uniform;
    for (const search::Candidate* candidate : scores_.candidates) {
      search::Assignment& assignment = uniform.emplace_back();
      for (size_t group = 0; group < scores_.groups.size(); ++group) {
        const auto& options = allocator_.options(group);
        const bool is_offered = std::ranges::find(options, candidate) != options.end();
        assignment.push_back(is_offered ? candidate : nullptr);
      }
    }
    const std::vector<eval::Estimate> losses = loss_->measure(uniform);
    for (size_t index = 0; index < uniform.size(); ++index) {
      const search::Allocation allocation = allocator_.describe(uniform[index]);
      comparisons.push_back({fmt::format("{} everywhere", scores_.candidates[index]->name),
                             allocation.bits, allocation.predicted_kl, losses[index].mean});
    }
    return comparisons;
  }

  const SearchFlags& flags_;
  const search::Scores& scores_;
  const search::Allocator& allocator_;
  const std::vector<search::Allocator>& others_;  // by the other scores that were measured
  runtime::Windows windows_;
  std::optional<search::JointLoss> loss_;
};

void write_outputs(const search::SearchReport& report, const std::filesystem::path& directory) {
  search::write_scores(report.scores, directory / "scores.json");
  for (const search::ReportedAllocation& reported : report.allocations) {
    const std::string description =
        fmt::format("chosen by vernier search for {} within {}: {:.4g} bits a weight",
                    report.scores.model, reported.budget, reported.allocation.bits);
    write_file(directory / reported.recipe_file,
               search::recipe_text(report.scores, reported.allocation.chosen, description,
                                   "# Made by vernier search; scores.json holds what it was "
                                   "chosen by.\n"));
  }
  write_file(directory / "report.json", io::dump_json(search::to_json(report)) + "\n");
  write_file(directory / "report.html", search::report_html(report));
}

std::string output_of(const SearchFlags& flags) {
  if (!flags.output.empty()) return flags.output;
  return (flags.model.empty() ? std::string("vernier") : model_base_name(flags.model)) + "_search";
}

}  // namespace

std::vector<std::filesystem::path> run_search(const SearchFlags& flags, Console& console,
                                              const comm::Communicator& world) {
  const Clock::time_point start = Clock::now();
  check_search_flags(flags);
  const RankSetup setup = set_up_ranks(flags.ranks, flags.device, world, console);
  PhaseTimes phases;
  std::optional<search::Scores> earlier;
  if (!flags.scores.empty()) earlier = search::read_scores(flags.scores);
  const std::optional<Subject> subject = open_subject(flags, earlier, setup, console);
  if (subject) print_plan(*subject, console);
  if (flags.plan_only) return {};

  std::optional<search::GemmTable> table;
  if (!flags.gemm_table.empty()) table = search::read_gemm_table(flags.gemm_table);
  // Before measuring, scores of zero: enough to tell whether patterns, lists and budgets can be
  // meant.
  search::Scores scores =
      earlier ? *std::move(earlier) : search::zero_scores(job_of(flags, *subject));
  const search::ScoreKind kind = search::parse_score_kind(flags.method);
  const search::Restrictions restrictions = restrictions_of(flags, scores, subject);
  const auto allocator_by = [&](search::ScoreKind by) {
    return search::Allocator(scores, restrictions, by, table ? &*table : nullptr);
  };
  for (const NamedBudget& budget : budgets_of(flags)) allocator_by(kind).best(budget.budget);

  const std::filesystem::path output = output_of(flags);
  StagedOutputs staged({output}, identity_of(flags, subject), flags.restart, setup.ranks,
                       JournalKeepers::kAllRanks);
  note_if_resumed(staged, console);
  if (flags.scores.empty()) scores = measure(flags, *subject, staged, phases, console);
  const search::Allocator allocator = allocator_by(kind);
  std::vector<search::Allocator> others;
  for (const search::ScoreKind other : search::measured_kinds(scores.kinds)) {
    if (other != kind) others.push_back(allocator_by(other));
  }
  search::SearchReport report = [&] {
    const PhaseTimer timer(&phases, "choose and measure");
    return Choosing(flags, subject, scores, allocator, others, console).run();
  }();
  if (world.rank() == 0) write_outputs(report, staged.staging_path(0));
  staged.commit();
  console.clear_progress();
  console.print(search::report_text(report, console.table_width()));
  console.print(fmt::format("wrote {}: scores.json, report.html, report.json and {} recipe{}",
                            output.string(), report.allocations.size(),
                            report.allocations.size() == 1 ? "" : "s"));
  console.print(time_summary(std::chrono::duration<double>(Clock::now() - start).count(), phases,
                             subject ? subject->setup.device.get() : nullptr));
  std::vector<std::filesystem::path> recipes;
  for (const auto& reported : report.allocations) recipes.push_back(output / reported.recipe_file);
  return recipes;
}

std::filesystem::path search_recipe(const SearchFlags& flags) {
  return std::filesystem::path(output_of(flags)) / budgets_of(flags).front().file;
}

Action declare_search(CLI::App& app) {
  auto flags = std::make_shared<SearchFlags>();
  declare_search_flags(app, *flags);
  return [flags](Console& console, const comm::Communicator& world) {
    const auto recipes = run_search(*flags, console, world);
    if (!recipes.empty()) {
      console.print(fmt::format("next: vernier quantize --hf-model-id {} --recipe {}",
                                flags->model.empty() ? "MODEL" : flags->model,
                                recipes.front().string()));
    }
    return 0;
  };
}

}  // namespace vernier::cli
