#include "search/refine.h"

#include <algorithm>
#include <cmath>

#include "eval/evaluate.h"
#include "quant/plan.h"

namespace vernier::search {
namespace {

// How much of a score's change may be wrong: what a trial could gain beyond its prediction.
constexpr double kDoubt = 0.3;

// A change of one group, as the scores see it.
struct Step {
  size_t group;
  const Candidate* candidate;
  double change;  // of the predicted loss
  double bits;    // change of the stored bits
};

std::vector<Step> steps_from(const Allocator& allocator, const Assignment& assignment) {
  std::vector<Step> steps;
  for (size_t group = 0; group < assignment.size(); ++group) {
    const double score = allocator.score(group, assignment[group]);
    const double bits = allocator.stored_bits(group, assignment[group]);
    for (const Candidate* candidate : allocator.options(group)) {
      if (candidate == assignment[group]) continue;
      steps.push_back({group, candidate, allocator.score(group, candidate) - score,
                       allocator.stored_bits(group, candidate) - bits});
    }
  }
  return steps;
}

double promise(double change, double turnover) { return change - kDoubt * turnover; }

// Single steps, and pairs of one that takes bits and one that gives them.
std::vector<Assignment> trials_from(const Allocator& allocator, const Budget& budget,
                                    const Assignment& assignment, int64_t n_most) {
  const std::vector<Step> steps = steps_from(allocator, assignment);
  struct Move {
    const Step* first;
    const Step* second;  // null: none
    double promise;      // less is better
  };
  std::vector<Move> moves;
  for (const Step& step : steps) {
    moves.push_back({&step, nullptr, promise(step.change, std::abs(step.change))});
    if (step.bits <= 0) continue;
    for (const Step& other : steps) {
      if (other.group == step.group || other.bits >= 0) continue;
      moves.push_back(
          {&step, &other,
           promise(step.change + other.change, std::abs(step.change) + std::abs(other.change))});
    }
  }
  std::ranges::stable_sort(moves, {}, &Move::promise);
  std::vector<Assignment> trials;
  for (const Move& move : moves) {
    if (std::ssize(trials) == n_most) break;
    Assignment trial = assignment;
    trial[move.first->group] = move.first->candidate;
    if (move.second != nullptr) trial[move.second->group] = move.second->candidate;
    if (allocator.keeps(trial, budget)) trials.push_back(std::move(trial));
  }
  return trials;
}

}  // namespace

JointLoss::JointLoss(const model::Model& model, const model::WeightSource& weights,
                     const Scores& scores, const runtime::Windows& windows,
                     const runtime::StreamOptions& stream, formats::Arithmetic arithmetic,
                     ProgressSink* progress)
    : model_(model),
      weights_(weights),
      scores_(scores),
      windows_(windows),
      stream_(stream),
      arithmetic_(arithmetic),
      progress_(progress),
      statistics_(statistics_of(scores, model.tree())),
      amaxes_(weights, model.ranks().tensor()) {}

std::vector<eval::Estimate> JointLoss::measure(const std::vector<Assignment>& assignments) const {
  std::vector<quant::QuantPlan> plans;
  for (const Assignment& assignment : assignments) {
    plans.push_back(quant::make_plan(assignment_recipe(scores_, assignment), model_.tree(), {}));
  }
  std::vector<QuantizedWeights> quantized;
  for (const quant::QuantPlan& plan : plans) {
    quantized.emplace_back(model_.tree(), weights_, plan, statistics_, amaxes_, arithmetic_);
  }
  std::vector<eval::Candidate> candidates = {{"the model", model_, weights_}};
  for (const QuantizedWeights& weights : quantized) {
    candidates.push_back({"an assignment", model_, weights});
  }
  eval::EvaluateOptions options;
  options.stream = stream_;
  options.progress = progress_;
  std::vector<eval::Estimate> losses;
  for (const eval::Score& score : eval::evaluate(candidates, windows_, options)) {
    losses.push_back(score.kl);
  }
  losses.erase(losses.begin());
  return losses;
}

void measure_replacement(const JointLoss& loss, Scores& scores) {
  for (size_t group = 0; group < scores.groups.size(); ++group) {
    GroupScores& own = scores.groups[group].scores;
    std::vector<Assignment> assignments;
    for (size_t candidate = 0; candidate < own.size(); ++candidate) {
      if (!own[candidate]) continue;
      assignments.emplace_back(scores.groups.size(), nullptr)[group] = scores.candidates[candidate];
    }
    if (assignments.empty()) continue;
    const std::vector<eval::Estimate> losses = loss.measure(assignments);
    auto next = losses.begin();
    for (std::optional<Score>& score : own) {
      if (score) score->replacement = next++->mean;
    }
  }
  scores.kinds.replacement = true;
}

Refined refine(const Allocator& allocator, const Budget& budget,
               const std::vector<Allocation>& starts, const JointLoss& loss,
               const RefineOptions& options) {
  // The best of some assignments.
  const auto best_of = [&](const std::vector<Assignment>& assignments) {
    const std::vector<eval::Estimate> losses = loss.measure(assignments);
    const auto least = std::ranges::min_element(losses, {}, &eval::Estimate::mean);
    return std::pair(assignments[static_cast<size_t>(least - losses.begin())], *least);
  };
  std::vector<Assignment> measured;
  for (const Allocation& start : starts) measured.push_back(start.chosen);
  const auto [start, before] = best_of(measured);
  Refined best{allocator.describe(start), before, before, 0};
  for (int64_t round = 0; round < options.n_rounds; ++round) {
    measured = trials_from(allocator, budget, best.allocation.chosen, options.n_trials);
    if (measured.empty()) break;
    const auto [found, after] = best_of(measured);
    if (after.mean >= best.after.mean) break;
    best.allocation = allocator.describe(found);
    best.after = after;
    ++best.n_swaps;
  }
  return best;
}

}  // namespace vernier::search
