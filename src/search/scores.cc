#include "search/scores.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/file.h"
#include "search/versioned_json.h"

namespace vernier::search {
namespace {

constexpr int kVersion = 1;

std::string kind_of(const ModuleGroup& group, const model::ModuleTree& tree) {
  if (group.layer < 0) return "head";
  switch (tree.layers()[static_cast<size_t>(group.layer)]) {
    case model::LayerKind::kMamba:
      return "mamba";
    case model::LayerKind::kAttention:
      return "attention";
    case model::LayerKind::kMlp:
      return "mlp";
    case model::LayerKind::kMoe:
      return group.is_routed ? "routed experts" : "moe";
  }
  return "";
}

ScoredGroup describe(const ModuleGroup& group, const model::ModuleTree& tree, double share) {
  const double active_share = group.is_routed ? share : 1;
  ScoredGroup scored{.name = group.name,
                     .layer = group.layer,
                     .kind = kind_of(group, tree),
                     .is_routed = group.is_routed,
                     .modules = {},
                     .shapes = shapes_of(group, active_share),
                     .n_weights = group.n_weights};
  for (const model::Module* module : group.modules) scored.modules.push_back(module->name);
  scored.n_active_weights = std::llround(static_cast<double>(group.n_weights) * active_share);
  return scored;
}

io::Json to_json(const ScoredGroup& group, const std::vector<const Candidate*>& candidates) {
  io::Json shapes = io::Json::array();
  for (const LinearShape& shape : group.shapes) {
    shapes.push_back(
        {{"n", shape.n}, {"k", shape.k}, {"count", shape.count}, {"active", shape.active_share}});
  }
  io::Json scores = io::Json::object();
  for (size_t index = 0; index < candidates.size(); ++index) {
    if (!group.scores[index]) continue;
    const Score& score = *group.scores[index];
    scores[std::string(candidates[index]->name)] = {
        {"fisher", score.fisher},
        {"gauss_newton", score.gauss_newton},
        {"gauss_newton_windows", score.gauss_newton_windows},
        {"replacement", score.replacement}};
  }
  return {{"name", group.name},
          {"layer", group.layer},
          {"kind", group.kind},
          {"routed", group.is_routed},
          {"weights", group.n_weights},
          {"active_weights", group.n_active_weights},
          {"shapes", shapes},
          {"modules", group.modules},
          {"scores", scores}};
}

ScoredGroup group_from_json(const io::Json& json, const std::vector<const Candidate*>& candidates) {
  ScoredGroup group{.name = json.at("name"),
                    .layer = json.at("layer"),
                    .kind = json.at("kind"),
                    .is_routed = json.at("routed"),
                    .modules = json.at("modules"),
                    .shapes = {},
                    .n_weights = json.at("weights"),
                    .n_active_weights = json.at("active_weights")};
  for (const io::Json& shape : json.at("shapes")) {
    group.shapes.push_back({shape.at("n"), shape.at("k"), shape.at("count"), shape.at("active")});
  }
  for (const Candidate* candidate : candidates) {
    const auto found = json.at("scores").find(std::string(candidate->name));
    if (found == json.at("scores").end()) {
      group.scores.emplace_back();
    } else {
      group.scores.push_back(Score{found->at("fisher"), found->at("gauss_newton"),
                                   found->at("gauss_newton_windows"), found->at("replacement")});
    }
  }
  return group;
}

Scores from_json(const io::Json& json) {
  Scores scores;
  scores.model = json.at("model");
  for (const io::Json& name : json.at("candidates")) {
    scores.candidates.push_back(&find_candidate(name.get<std::string>()));
  }
  for (const io::Json& group : json.at("groups")) {
    scores.groups.push_back(group_from_json(group, scores.candidates));
  }
  const io::Json& calibration = json.at("calibration");
  scores.n_windows = calibration.at("windows");
  scores.window_tokens = calibration.at("window_tokens");
  scores.kinds = {calibration.at("fisher"), calibration.at("gauss_newton"),
                  calibration.at("replacement")};
  scores.score_tokens = calibration.at("score_tokens");
  scores.seed = calibration.at("seed");
  scores.input_amax = json.at("input_amax").get<std::map<std::string, float>>();
  return scores;
}

}  // namespace

double routed_share(const model::Model& model, const std::vector<ModuleGroup>& groups) {
  int64_t n_routed = 0;
  int64_t n_other = 0;
  for (const ModuleGroup& group : groups) (group.is_routed ? n_routed : n_other) += group.n_weights;
  if (n_routed == 0) return 1;
  return static_cast<double>(model.active_weights() - n_other) / static_cast<double>(n_routed);
}

std::vector<LinearShape> shapes_of(const ModuleGroup& group, double active_share) {
  std::vector<LinearShape> shapes;
  for (const model::Module* module : group.modules) {
    const auto same = std::ranges::find_if(shapes, [&](const LinearShape& shape) {
      return shape.n == module->n && shape.k == module->k;
    });
    if (same != shapes.end()) {
      ++same->count;
    } else {
      shapes.push_back({module->n, module->k, 1, active_share});
    }
  }
  return shapes;
}

Scores make_scores(const SensitivityJob& job, const Sensitivity& sensitivity) {
  const std::vector<ModuleGroup> groups = make_groups(job.model.tree());
  const double share = routed_share(job.model, groups);
  Scores scores;
  scores.candidates = job.candidates;
  for (size_t index = 0; index < groups.size(); ++index) {
    scores.groups.push_back(describe(groups[index], job.model.tree(), share));
    scores.groups.back().scores = sensitivity.scores[index];
  }
  for (const auto& [layer, seen] : sensitivity.statistics) {
    for (const auto& [module, amax] : seen.input_amax) scores.input_amax[module->name] = amax;
  }
  scores.n_windows = std::ssize(job.windows);
  scores.window_tokens = std::ssize(job.windows.front());
  scores.kinds = job.kinds;
  scores.score_tokens = job.score_tokens;
  scores.seed = job.seed;
  return scores;
}

Scores zero_scores(const SensitivityJob& job) {
  Sensitivity zeros;
  zeros.scores.assign(make_groups(job.model.tree()).size(),
                      GroupScores(job.candidates.size(), Score{}));
  Scores scores = make_scores(job, zeros);
  scores.kinds = {.fisher = true, .gauss_newton = true, .replacement = true};
  return scores;
}

void write_scores(const Scores& scores, const std::filesystem::path& path) {
  io::Json candidates = io::Json::array();
  for (const Candidate* candidate : scores.candidates) candidates.push_back(candidate->name);
  io::Json groups = io::Json::array();
  for (const ScoredGroup& group : scores.groups) {
    groups.push_back(to_json(group, scores.candidates));
  }
  const io::Json document = {{"version", kVersion},
                             {"model", scores.model},
                             {"candidates", candidates},
                             {"calibration",
                              {{"windows", scores.n_windows},
                               {"window_tokens", scores.window_tokens},
                               {"fisher", scores.kinds.fisher},
                               {"gauss_newton", scores.kinds.gauss_newton},
                               {"replacement", scores.kinds.replacement},
                               {"score_tokens", scores.score_tokens},
                               {"seed", scores.seed}}},
                             {"groups", groups},
                             {"input_amax", scores.input_amax}};
  write_file(path, document.dump(1) + "\n");
}

Scores read_scores(const std::filesystem::path& path) {
  return read_versioned(path, kVersion, "no scores of a search", "the scores of a search",
                        from_json);
}

void check_same_network(const Scores& scores, const model::ModuleTree& tree,
                        const std::filesystem::path& path) {
  const std::vector<ModuleGroup> groups = make_groups(tree);
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::kInvalidArgument,
                fmt::format("{}: scores of another model: {}", path.string(), what));
  };
  if (groups.size() != scores.groups.size()) {
    fail(
        fmt::format("{} groups of modules, the model has {}", scores.groups.size(), groups.size()));
  }
  for (size_t index = 0; index < groups.size(); ++index) {
    const ScoredGroup& scored = scores.groups[index];
    if (scored.name == groups[index].name && scored.n_weights == groups[index].n_weights) continue;
    fail(fmt::format("{} of {} weights where the model has {} of {}", scored.name, scored.n_weights,
                     groups[index].name, groups[index].n_weights));
  }
}

Statistics statistics_of(const Scores& scores, const model::ModuleTree& tree) {
  Statistics statistics;
  for (int layer = -1; layer < static_cast<int>(tree.layers().size()); ++layer) {
    calib::LayerStatistics& seen = statistics[layer];
    for (const model::Module* module : tree.modules_of(layer)) {
      const auto found = scores.input_amax.find(module->name);
      if (found != scores.input_amax.end()) seen.input_amax[module] = found->second;
    }
  }
  return statistics;
}

}  // namespace vernier::search
