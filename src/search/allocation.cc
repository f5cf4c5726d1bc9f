#include "search/allocation.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/check.h"
#include "base/error.h"
#include "quant/glob.h"
#include "search/frontier.h"
#include "search/knapsack.h"

namespace vernier::search {
namespace {

// Bits a weight are multiples of a half (NVFP4: 4.5), so that costs in half bits are integers.
constexpr double kCostsPerBit = 2;
constexpr double kNanoseconds = 1e9;
constexpr double kUnquantizedBits = 16;

double bits_of(const Candidate* candidate) {
  return candidate == nullptr ? kUnquantizedBits : candidate->bits_per_weight;
}

std::string_view name_of(const Candidate* candidate) {
  return candidate == nullptr ? "bf16" : candidate->name;
}

[[noreturn]] void fail(const std::string& what) { throw Error(ErrorKind::kInvalidArgument, what); }

// One kind of cost: what a group counts with under a candidate, in units that are integers, and how
// many units a budget is.
struct Constraint {
  std::function<int64_t(const ScoredGroup&, const Candidate*)> cost;
  int64_t budget;
  std::string unit;  // "bits a weight"
  double per_unit;   // units of cost in one of the budget's
};

int64_t half_bits(int64_t n_weights, const Candidate* candidate) {
  return std::llround(static_cast<double>(n_weights) * bits_of(candidate) * kCostsPerBit);
}

struct NamedKind {
  std::string_view name;
  ScoreKind kind;
  std::string_view title;
  bool ScoreKinds::*is_measured;
  double Score::*value;
};
constexpr NamedKind kKinds[] = {
    {"gauss-newton", ScoreKind::kGaussNewton, "Gauss-Newton", &ScoreKinds::gauss_newton,
     &Score::gauss_newton},
    {"fisher", ScoreKind::kFisher, "Fisher", &ScoreKinds::fisher, &Score::fisher},
    {"replacement", ScoreKind::kReplacement, "replacement", &ScoreKinds::replacement,
     &Score::replacement}};

const NamedKind& row_of(ScoreKind kind) {
  return *std::ranges::find(kKinds, kind, &NamedKind::kind);
}

bool is_measured(const ScoreKinds& kinds, ScoreKind kind) {
  return kinds.*row_of(kind).is_measured;
}

}  // namespace

std::string_view to_string(ScoreKind kind) { return row_of(kind).name; }
std::string_view title_of(ScoreKind kind) { return row_of(kind).title; }

ScoreKind parse_score_kind(std::string_view name) {
  const auto* const row = std::ranges::find(kKinds, name, &NamedKind::name);
  if (row != std::end(kKinds)) return row->kind;
  fail(fmt::format("--method: found \"{}\", expected gauss-newton, fisher or replacement", name));
}

std::vector<ScoreKind> measured_kinds(const ScoreKinds& kinds) {
  std::vector<ScoreKind> measured;
  for (const NamedKind& row : kKinds) {
    if (kinds.*row.is_measured) measured.push_back(row.kind);
  }
  return measured;
}

Allocator::Allocator(const Scores& scores, const Restrictions& restrictions, ScoreKind kind,
                     const GemmTable* table)
    : scores_(scores), kind_(kind), table_(table) {
  if (!is_measured(scores.kinds, kind)) {
    fail(fmt::format("these scores hold none of the method {0}; measure them with --method {0}",
                     to_string(kind)));
  }
  const std::vector<bool> is_disabled = groups_matching(restrictions.disabled);
  const std::vector<bool> is_uncounted = groups_matching(restrictions.uncounted);
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    std::vector<const Candidate*>& options = options_.emplace_back(1, nullptr);
    is_counted_.push_back(!is_uncounted[group]);
    if (is_disabled[group]) continue;
    for (size_t index = 0; index < scores.candidates.size(); ++index) {
      if (scores.groups[group].scores[index]) options.push_back(scores.candidates[index]);
    }
    if (!restrictions.allows_unquantized && options.size() > 1) options.erase(options.begin());
  }
  std::vector<bool> is_restricted(scores.groups.size());
  for (const CandidateList& list : restrictions.lists) restrict_to(list, is_restricted);
}

std::optional<bool> Allocator::matches(const ScoredGroup& group, const std::string& pattern) const {
  const quant::Glob glob(pattern);
  const auto n_matched = std::ranges::count_if(
      group.modules, [&](const std::string& module) { return glob.matches(module); });
  if (n_matched == 0) return false;
  if (n_matched == std::ssize(group.modules)) return true;
  return std::nullopt;
}

std::vector<bool> Allocator::groups_matching(const std::vector<std::string>& patterns) const {
  std::vector<bool> found(scores_.groups.size());
  for (const std::string& pattern : patterns) {
    bool is_used = false;
    for (size_t group = 0; group < scores_.groups.size(); ++group) {
      const std::optional<bool> is_match = matches(scores_.groups[group], pattern);
      if (!is_match) {
        fail(
            fmt::format("the pattern \"{}\" matches some modules of {} and not others, which "
                        "servers need in one format",
                        pattern, scores_.groups[group].name));
      }
      if (!*is_match) continue;
      found[group] = true;
      is_used = true;
    }
    if (!is_used) fail(fmt::format("the pattern \"{}\" matches no linear module", pattern));
  }
  return found;
}

void Allocator::restrict_to(const CandidateList& list, std::vector<bool>& is_restricted) {
  const std::vector<bool> is_match = groups_matching({list.pattern});
  for (size_t group = 0; group < options_.size(); ++group) {
    if (!is_match[group]) continue;
    if (is_restricted[group]) {
      fail(fmt::format("two lists of candidates are for {}, the second by the pattern \"{}\"",
                       scores_.groups[group].name, list.pattern));
    }
    is_restricted[group] = true;
    std::vector<const Candidate*> kept;
    for (const Candidate* option : options_[group]) {
      const auto is_listed = [&](const Candidate* candidate) {
        return candidate == option || (option == nullptr && !candidate->is_quantized());
      };
      if (std::ranges::any_of(list.candidates, is_listed)) kept.push_back(option);
    }
    if (kept.empty()) {
      fail(fmt::format("the candidates for \"{}\" leave nothing to choose for {}", list.pattern,
                       scores_.groups[group].name));
    }
    options_[group] = std::move(kept);
  }
}

double Allocator::score(size_t group, const Candidate* candidate) const {
  if (candidate == nullptr) return 0;
  const auto index = std::ranges::find(scores_.candidates, candidate) - scores_.candidates.begin();
  const std::optional<Score>& score = scores_.groups[group].scores[static_cast<size_t>(index)];
  VERNIER_CHECK(score.has_value());
  return (*score).*row_of(kind_).value;
}

double Allocator::stored_bits(size_t group, const Candidate* candidate) const {
  return static_cast<double>(scores_.groups[group].n_weights) * bits_of(candidate);
}

namespace {

struct Totals {
  int64_t n_weights = 0;
  int64_t n_active = 0;
};

// Stored bits come first, budget or not: ties go to fewer bits.
std::vector<Constraint> constraints_of(const Budget& budget, const Totals& totals,
                                       const GemmTable* table) {
  constexpr int64_t kUnlimited = int64_t{1} << 61;
  // A budget that is a sum of bits exactly must not lose its last unit to rounding.
  constexpr double kSlack = 1e-6;
  const auto limit = [](const std::optional<double>& wanted, double per_unit) {
    if (!wanted) return kUnlimited;
    return static_cast<int64_t>(std::floor(*wanted * per_unit + kSlack));
  };
  std::vector<Constraint> constraints;
  const double stored_unit = kCostsPerBit * static_cast<double>(totals.n_weights);
  constraints.push_back({[](const ScoredGroup& group, const Candidate* candidate) {
                           return half_bits(group.n_weights, candidate);
                         },
                         limit(budget.bits, stored_unit), "bits a weight", stored_unit});
  if (budget.active_bits) {
    const double unit = kCostsPerBit * static_cast<double>(totals.n_active);
    constraints.push_back({[](const ScoredGroup& group, const Candidate* candidate) {
                             return half_bits(group.n_active_weights, candidate);
                           },
                           limit(budget.active_bits, unit), "active bits a weight", unit});
  }
  const auto add_time = [&](const std::optional<double>& wanted, ServingPhase phase,
                            const char* unit) {
    if (!wanted) return;
    if (table == nullptr) fail("a budget of time needs a table of products (--gemm-table)");
    constraints.push_back({[table, phase](const ScoredGroup& group, const Candidate* candidate) {
                             return std::llround(kNanoseconds *
                                                 table->seconds(group, candidate, phase));
                           },
                           limit(wanted, kNanoseconds), unit, kNanoseconds});
  };
  add_time(budget.prefill_seconds, ServingPhase::kPrefill, "seconds of prefilling");
  add_time(budget.decode_seconds, ServingPhase::kDecode, "seconds of decoding");
  return constraints;
}

Totals totals_of(const Scores& scores, const Allocator& allocator) {
  Totals totals;
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    if (!allocator.is_counted(group)) continue;
    totals.n_weights += scores.groups[group].n_weights;
    totals.n_active += scores.groups[group].n_active_weights;
  }
  return totals;
}

std::vector<Group> choices_of(const Scores& scores, const Allocator& allocator,
                              const std::vector<Constraint>& constraints) {
  std::vector<Group> groups;
  for (size_t index = 0; index < scores.groups.size(); ++index) {
    Group& choices = groups.emplace_back();
    for (const Candidate* candidate : allocator.options(index)) {
      Choice choice{std::string(name_of(candidate)), allocator.score(index, candidate), {}};
      for (const Constraint& constraint : constraints) {
        choice.cost.push_back(
            allocator.is_counted(index) ? constraint.cost(scores.groups[index], candidate) : 0);
      }
      choices.push_back(std::move(choice));
    }
  }
  return groups;
}

[[noreturn]] void fail_infeasible(const std::vector<Group>& groups,
                                  const std::vector<Constraint>& constraints) {
  for (size_t index = 0; index < constraints.size(); ++index) {
    const Constraint& constraint = constraints[index];
    const int64_t least = least_cost(groups, index);
    if (least <= constraint.budget) continue;
    fail(
        fmt::format("the budget of {:g} {} cannot be kept: the least that these candidates reach "
                    "is {:.6g}",
                    static_cast<double>(constraint.budget) / constraint.per_unit, constraint.unit,
                    static_cast<double>(least) / constraint.per_unit));
  }
  fail("the budgets cannot be kept together, though each alone could be");
}

}  // namespace

Allocation Allocator::best(const Budget& budget) const {
  const std::vector<Constraint> constraints =
      constraints_of(budget, totals_of(scores_, *this), table_);
  Problem problem{choices_of(scores_, *this, constraints), {}};
  for (const Constraint& constraint : constraints) problem.budgets.push_back(constraint.budget);
  const std::optional<Solution> solution = solve(problem);
  if (!solution) fail_infeasible(problem.groups, constraints);
  Assignment chosen;
  for (size_t group = 0; group < options_.size(); ++group) {
    chosen.push_back(options_[group][static_cast<size_t>(solution->chosen[group])]);
  }
  return describe(chosen);
}

std::vector<FrontierPoint> Allocator::frontier() const {
  constexpr size_t kMostPoints = 4096;
  constexpr int64_t kBudgets = 64;
  const Totals totals = totals_of(scores_, *this);
  const std::vector<Constraint> constraints = constraints_of({}, totals, nullptr);
  const std::vector<Group> choices = choices_of(scores_, *this, constraints);
  const auto n_weights = static_cast<double>(std::max<int64_t>(totals.n_weights, 1));
  const auto most = static_cast<int64_t>(kCostsPerBit * kUnquantizedBits * n_weights);
  const int64_t least = least_cost(choices, 0);
  std::vector<int64_t> budgets;
  for (int64_t step = 0; step <= kBudgets; ++step) {
    budgets.push_back(least + (most - least) / kBudgets * step);
  }
  std::vector<FrontierPoint> points;
  for (const Solution& point : search::frontier(choices, budgets, kMostPoints).points) {
    points.push_back({static_cast<double>(point.cost[0]) / (kCostsPerBit * n_weights), point.loss});
  }
  return points;
}

bool Allocator::keeps(const Assignment& assignment, const Budget& budget) const {
  for (const Constraint& constraint : constraints_of(budget, totals_of(scores_, *this), table_)) {
    int64_t cost = 0;
    for (size_t group = 0; group < assignment.size(); ++group) {
      if (is_counted_[group]) cost += constraint.cost(scores_.groups[group], assignment[group]);
    }
    if (cost > constraint.budget) return false;
  }
  return true;
}

Allocation Allocator::describe(const Assignment& assignment) const {
  const Totals totals = totals_of(scores_, *this);
  Allocation allocation{.chosen = assignment};
  double stored = 0;
  double active = 0;
  for (size_t group = 0; group < assignment.size(); ++group) {
    allocation.predicted_kl += score(group, assignment[group]);
    if (!is_counted_[group]) continue;
    stored += stored_bits(group, assignment[group]);
    active +=
        static_cast<double>(scores_.groups[group].n_active_weights) * bits_of(assignment[group]);
  }
  allocation.bits = stored / static_cast<double>(std::max<int64_t>(totals.n_weights, 1));
  allocation.active_bits = active / static_cast<double>(std::max<int64_t>(totals.n_active, 1));
  return allocation;
}

}  // namespace vernier::search
