#include "search/scorer.h"

#include <algorithm>

#include "base/error.h"
#include "io/json.h"
#include "kernels/grouped_linear.h"
#include "kernels/output_error.h"
#include "model/stage.h"

namespace vernier::search {

void ScoreSums::add(const ScoreSums& other) {
  fisher += other.fisher;
  gauss_newton += other.gauss_newton;
  gauss_newton_windows += other.gauss_newton_windows;
}

Scorer::Scorer(const model::Model& model, const std::vector<ModuleGroup>& groups,
               const std::vector<quant::QuantPlan>& plans,
               const std::vector<QuantizedWeights>& candidates, const runtime::Windows& windows,
               const ScorerOptions& options)
    : model_(model),
      groups_(groups),
      plans_(plans),
      candidates_(candidates),
      index_(groups),
      n_windows_(windows.size()),
      device_(candidates.front().device()),
      options_(options) {
  for (size_t window = 0; window < windows.size(); ++window) {
    window_of_.insert(window_of_.end(), windows[window].size(), static_cast<int32_t>(window));
  }
}

bool Scorer::offers(size_t candidate, size_t group) const {
  return plans_[candidate].site(*groups_[group].modules.front()).is_quantized();
}

model::GradientHook* Scorer::on_layer_begin(int layer) {
  const PhaseTimer timer(options_.phases, "encode candidates");
  tallies_.clear();
  scores_ = {};
  weights_.assign(candidates_.size(), {});
  for (size_t group = 0; group < groups_.size(); ++group) {
    if (groups_[group].layer != layer) continue;
    tallies_[group].resize(candidates_.size());
    for (size_t candidate = 0; candidate < candidates_.size(); ++candidate) {
      if (!offers(candidate, group)) continue;
      tallies_[group][candidate].by_window.resize(n_windows_);
      for (const model::Module* module : groups_[group].modules) {
        if (!model::is_here(model_, *module)) continue;
        weights_[candidate][module] = candidates_[candidate].linear(*module);
      }
    }
  }
  return this;
}

void Scorer::on_batch_begin(int64_t first_row, int64_t n_rows) {
  batch_first_ = first_row;
  batch_rows_ = n_rows;
  errors_.clear();
  if (tallies_.empty()) return;  // nothing in the layer is a candidate's
  sample_ = TokenSample(options_.score_tokens, options_.seed, options_.first_row + first_row,
                        n_rows, device_);
  const auto n_candidates = static_cast<int64_t>(candidates_.size());
  for (const auto& [group, tallies] : tallies_) {
    errors_.emplace(group, new_zeros(2 * n_candidates, sample_.size(), device_));
  }
}

Scorer::Part Scorer::part_of(int64_t first_row, int64_t n_rows) {
  if (n_rows == batch_rows_) return {sample_, 0};
  const int64_t first = options_.first_row + batch_first_ + first_row;
  part_ = TokenSample(options_.score_tokens, options_.seed, first, n_rows, device_);
  const auto begin = std::ranges::lower_bound(sample_.rows(), first) - sample_.rows().begin();
  return {part_, begin};
}

void Scorer::on_linear(const model::LinearPass& pass) {
  if (pass.module.expert >= 0) return;
  const Part part = part_of(pass.first_row, pass.x.rows);
  if (part.sample.size() == 0) return;
  AnyMatrix x_scratch, y_scratch;
  const ConstAnyMatrixView x = part.sample.of(pass.x, x_scratch);
  ConstAnyMatrixView y = part.sample.of(pass.y, y_scratch);
  const model::Cut& cut = pass.module.tensors.front().cut;
  const bool is_summed = cut.kind == model::CutKind::kColumns && ranks().tensor().size() > 1;
  AnyMatrix y_sum;
  if (is_summed) {
    y_sum = AnyMatrix(y.rows, y.cols, y.dtype, y.device);
    copy_matrix(y, y_sum);
    ranks().tensor().sum(y_sum.view());
    y = y_sum;
  }
  // Of ranks with the same outputs one counts.
  const bool counts = model::holder_of_outputs(cut, ranks().place().tensor).index == 0;
  const size_t group = index_.of(pass.module);
  AnyMatrix moved(y.rows, y.cols, y.dtype, y.device);
  for (size_t candidate = 0; candidate < candidates_.size(); ++candidate) {
    if (!offers(candidate, group)) continue;
    const model::LinearWeight& weight = weights_[candidate].at(&pass.module);
    kernels::linear(x, weight.packed, weight.input, moved);
    if (is_summed) ranks().tensor().sum(moved.view());
    if (counts) add_error(group, candidate, part, y, moved, pass.g_y);
  }
}

// Also without a token: ranks that share out the experts run candidates together.
void Scorer::on_experts(const model::ExpertsPass& pass) {
  const size_t group = index_.of(*pass.up.front());
  const Part part = part_of(pass.first_row, pass.y.rows);
  const VectorView<const int32_t> within = part.sample.within();
  AnyMatrix y_scratch;
  const ConstAnyMatrixView y = part.sample.of(pass.y, y_scratch);
  AnyMatrix moved(y.rows, y.cols, DType::kF32, device_);
  for (size_t candidate = 0; candidate < candidates_.size(); ++candidate) {
    if (!offers(candidate, group)) continue;
    const auto weights_of = [&](const std::vector<const model::Module*>& modules) {
      std::vector<kernels::GroupWeight> weights;
      for (const model::Module* module : modules) {
        const model::LinearWeight& weight = weights_[candidate].at(module);
        weights.push_back({weight.packed, weight.input});
      }
      return weights;
    };
    pass.run(weights_of(pass.up), weights_of(pass.down),
             part.sample.takes_all() ? nullptr : &within, moved);
    if (y.rows > 0) add_error(group, candidate, part, y, moved, pass.g_y);
  }
}

void Scorer::add_error(size_t group, size_t candidate, const Part& part, ConstAnyMatrixView y,
                       ConstAnyMatrixView moved, model::Gradients g) {
  AnyMatrix fisher_scratch, probe_scratch;
  const AnyMatrixView errors = errors_.at(group);
  const auto part_of_row = [&](size_t row) {
    const AnyMatrixView values = errors.row_range(static_cast<int64_t>(row), 1);
    return VectorView<float>(values.as<float>(), values.cols, values.device)
        .part(part.first, part.sample.size());
  };
  // The cross-entropy's gradient comes before the probe's.
  const ScoreKinds& kinds = options_.kinds;
  ConstAnyMatrixView fisher, probe;
  if (kinds.fisher) fisher = part.sample.of(g.front(), fisher_scratch);
  if (kinds.gauss_newton) probe = part.sample.of(g.back(), probe_scratch);
  kernels::output_error(y, moved, fisher, probe, part_of_row(candidate),
                        part_of_row(candidates_.size() + candidate));
}

void Scorer::on_batch_done() {
  if (tallies_.empty()) return;
  for (auto& [group, errors] : errors_) {
    ranks().tensor().sum(errors.view());
    const Matrix sums = to_host(errors);
    for (size_t candidate = 0; candidate < candidates_.size(); ++candidate) {
      if (!offers(candidate, group)) continue;
      const auto row = static_cast<int64_t>(candidate);
      tally(group, candidate, sums.view().row(row), sums.view().row(std::ssize(candidates_) + row));
    }
  }
  scores_.n_tokens += sample_.size();
}

void Scorer::tally(size_t group, size_t candidate, std::span<const float> squares,
                   std::span<const float> dots) {
  Tally& tally = tallies_.at(group)[candidate];
  for (size_t at = 0; at < dots.size(); ++at) {
    const double dot = dots[at];
    tally.sums.fisher += squares[at];
    tally.sums.gauss_newton += dot * dot;
    const auto row = static_cast<size_t>(sample_.rows()[at] - options_.first_row);
    tally.by_window[static_cast<size_t>(window_of_[row])] += dot;
  }
}

void Scorer::on_layer_done(int /*layer*/) {
  for (const auto& [group, tallies] : tallies_) {
    auto& sums = scores_.sums[group];
    for (size_t candidate = 0; candidate < tallies.size(); ++candidate) {
      if (!offers(candidate, group)) {
        sums.emplace_back();
        continue;
      }
      ScoreSums total = tallies[candidate].sums;
      for (const double dot : tallies[candidate].by_window) total.gauss_newton_windows += dot * dot;
      sums.emplace_back(total);
    }
  }
  weights_.clear();
  errors_.clear();
}

io::Json to_json(const LayerScores& scores, const std::vector<ModuleGroup>& groups) {
  io::Json by_group = io::Json::object();
  for (const auto& [group, candidates] : scores.sums) {
    io::Json& rows = by_group[groups[group].name] = io::Json::array();
    for (const std::optional<ScoreSums>& sums : candidates) {
      rows.push_back(sums ? io::Json{sums->fisher, sums->gauss_newton, sums->gauss_newton_windows}
                          : io::Json());
    }
  }
  return {{"tokens", scores.n_tokens}, {"groups", by_group}};
}

LayerScores layer_scores_from_json(const io::Json& json, const std::vector<ModuleGroup>& groups) {
  LayerScores scores;
  scores.n_tokens = json.at("tokens");
  for (size_t group = 0; group < groups.size(); ++group) {
    const auto found = json.at("groups").find(groups[group].name);
    if (found == json.at("groups").end()) continue;
    for (const io::Json& row : *found) {
      if (row.is_null()) {
        scores.sums[group].emplace_back();
      } else {
        scores.sums[group].push_back(ScoreSums{row.at(0), row.at(1), row.at(2)});
      }
    }
  }
  return scores;
}

}  // namespace vernier::search
