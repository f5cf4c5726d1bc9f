// Choosing a candidate for every group: what may be chosen, what it costs, and the best choice
// within a budget.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/recipe.h"
#include "search/gemm_table.h"
#include "search/scores.h"

namespace vernier::search {

enum class ScoreKind { kGaussNewton, kFisher, kReplacement };

// "gauss-newton", "fisher", "replacement".
std::string_view to_string(ScoreKind kind);
// As prose has it: "Gauss-Newton".
std::string_view title_of(ScoreKind kind);
// Throws InvalidArgument listing the names.
ScoreKind parse_score_kind(std::string_view name);

std::vector<ScoreKind> measured_kinds(const ScoreKinds& kinds);

// Modules that match take their candidate from this list alone.
struct CandidateList {
  std::string pattern;
  std::vector<const Candidate*> candidates;
};

struct Restrictions {
  std::vector<std::string> disabled;   // module patterns: stay as they are
  std::vector<std::string> uncounted;  // module patterns: count in no cost
  std::vector<CandidateList> lists;
  bool allows_unquantized = true;  // whether a module may be left as it is where it has a candidate
};

// Budgets of one choice; at least one is set. A module left as it is counts as 16 bits.
struct Budget {
  std::optional<double> bits;             // stored bits a weight, over the counted weights
  std::optional<double> active_bits;      // bits a weight that one token reads
  std::optional<double> prefill_seconds;  // of the linears, as the table of products says
  std::optional<double> decode_seconds;
};

// A candidate for every group; null: left as it is.
using Assignment = std::vector<const Candidate*>;

struct Allocation {
  Assignment chosen;        // by group
  double predicted_kl = 0;  // nats a position, the sum of the chosen scores
  double bits = 0;
  double active_bits = 0;
};

struct FrontierPoint {
  double bits = 0;
  double predicted_kl = 0;
};

class Allocator {
 public:
  // `table` may be null where no budget is of time. Throws InvalidArgument for a pattern that
  // matches no module, one that matches some members of a group and not others, and two lists for
  // one group.
  Allocator(const Scores& scores, const Restrictions& restrictions, ScoreKind kind,
            const GemmTable* table);

  // The least predicted loss within the budget, of equals the one with fewer bits, then by name.
  // Throws InvalidArgument naming the least that can be reached.
  Allocation best(const Budget& budget) const;
  // Points that no other beats in both bits and loss, by bits: all of them where they are few, else
  // the corners of their convex hull and the best for a row of budgets between.
  std::vector<FrontierPoint> frontier() const;

  // Whether every limit of the budget holds.
  bool keeps(const Assignment& assignment, const Budget& budget) const;
  Allocation describe(const Assignment& assignment) const;
  // What group may become, the reference (null) among them where allowed.
  const std::vector<const Candidate*>& options(size_t group) const { return options_[group]; }
  double score(size_t group, const Candidate* candidate) const;
  // Stored bits that a group counts with.
  double stored_bits(size_t group, const Candidate* candidate) const;
  bool is_counted(size_t group) const { return is_counted_[group]; }

 private:
  std::optional<bool> matches(const ScoredGroup& group, const std::string& pattern) const;
  std::vector<bool> groups_matching(const std::vector<std::string>& patterns) const;
  void restrict_to(const CandidateList& list, std::vector<bool>& is_restricted);

  const Scores& scores_;
  ScoreKind kind_;
  const GemmTable* table_;
  std::vector<std::vector<const Candidate*>> options_;  // by group
  std::vector<bool> is_counted_;                        // by group
};

// A recipe file that quantizes by the assignment. `comment`: what it is, as lines of a comment.
std::string recipe_text(const Scores& scores, const Assignment& assignment,
                        const std::string& description, const std::string& comment);
// The same, to be used at once.
quant::Recipe assignment_recipe(const Scores& scores, const Assignment& assignment);

}  // namespace vernier::search
