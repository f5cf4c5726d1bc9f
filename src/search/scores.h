// What a search measured, as a file: scores of every group and candidate, and what a later run
// needs to choose again, for another budget or under other rules, without the model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/json_fwd.h"
#include "search/candidates.h"
#include "search/groups.h"
#include "search/sensitivity.h"

namespace vernier::search {

// The shape of some linears of a group: weights [n, k].
struct LinearShape {
  int64_t n = 0;
  int64_t k = 0;
  int64_t count = 0;        // of modules
  double active_share = 1;  // of them, that one token visits
};

// A group without its model.
struct ScoredGroup {
  std::string name;
  int layer = -1;
  std::string kind;  // "mamba", "attention", "mlp", "moe", "head": for reports
  bool is_routed = false;
  std::vector<std::string> modules;
  std::vector<LinearShape> shapes;
  int64_t n_weights = 0;
  int64_t n_active_weights = 0;  // that take part in one token
  GroupScores scores;            // by candidate of the file
};

struct Scores {
  std::string model;                         // for people
  std::vector<const Candidate*> candidates;  // without bf16
  std::vector<ScoredGroup> groups;
  std::map<std::string, float> input_amax;  // by module
  int64_t n_windows = 0;
  int64_t window_tokens = 0;
  ScoreKinds kinds;
  double score_tokens = 1;
  uint64_t seed = 0;
};

// The share of its layer's routed experts that a token visits; 1 in a network without any.
double routed_share(const model::Model& model, const std::vector<ModuleGroup>& groups);
// The distinct shapes of a group's modules, in their order.
std::vector<LinearShape> shapes_of(const ModuleGroup& group, double active_share);

Scores make_scores(const SensitivityJob& job, const Sensitivity& sensitivity);
// What the job would measure, all zeros.
Scores zero_scores(const SensitivityJob& job);

void write_scores(const Scores& scores, const std::filesystem::path& path);
// Throws NotFound, or Corrupt naming the file and what is wrong.
Scores read_scores(const std::filesystem::path& path);

// Throws InvalidArgument naming the first difference unless the scores are of a network like this.
void check_same_network(const Scores& scores, const model::ModuleTree& tree,
                        const std::filesystem::path& path);

// What calibration saw, for plans over the same network.
Statistics statistics_of(const Scores& scores, const model::ModuleTree& tree);

}  // namespace vernier::search
