// What the tables, the page and the JSON of a search have in common: names of candidates, families
// of groups and their sums, numbers as text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "search/search_report.h"

namespace vernier::search {

// "bf16" for null.
std::string_view name_of(const Candidate* candidate);
double bits_per_weight(const Candidate* candidate);
// Null first, then the candidates of the scores.
std::vector<const Candidate*> reported_candidates(const Scores& scores);

// Groups with one task in layers of one kind: "mamba in_proj", "routed experts", "head".
struct Family {
  std::string name;
  std::vector<size_t> groups;
};
std::string family_of(const ScoredGroup& group);
// In the order of the network.
std::vector<Family> families_of(const Scores& scores);

// Sums over groups.
struct GroupSums {
  int64_t n_groups = 0;
  int64_t n_weights = 0;
  double stored_bits = 0;
  double predicted_kl = 0;

  double bytes() const { return stored_bits / 8; }
  double bits_per_weight() const;
};
// Of the groups that an assignment gives one candidate.
struct CandidateUse {
  const Candidate* candidate;
  GroupSums sums;
};
GroupSums sums_of(const SearchReport& report, const std::vector<size_t>& groups,
                  const Assignment& assignment);
// By candidate, in their order, without those of no group.
std::vector<CandidateUse> uses_of(const SearchReport& report, const std::vector<size_t>& groups,
                                  const Assignment& assignment);
// Indexes of all groups.
std::vector<size_t> all_groups(const Scores& scores);

bool has_score(const Scores& scores, size_t group, const Candidate* candidate);
// Of the candidates with fewest bits that a group may become, the one with the least loss; null
// where nothing was scored.
const Candidate* smallest_candidate(const SearchReport& report, size_t group);
// Groups by falling loss under their smallest candidates.
std::vector<size_t> by_sensitivity(const SearchReport& report);

// "0.0227", "1.2e-5"
std::string kl_text(double nats);
// "0.0227 ± 0.0008"
std::string kl_text(const eval::Estimate& estimate);
// "12.5 %", "< 0.1 %"
std::string share_text(double part, double whole);

}  // namespace vernier::search
