#include "search/sensitivity.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "base/check.h"
#include "calib/observer.h"
#include "calib/rank_statistics.h"
#include "calib/shared_journal.h"
#include "io/json.h"
#include "kernels/loss.h"
#include "model/stage.h"
#include "runtime/head.h"

namespace vernier::search {
namespace {

constexpr int kOutsideStack = -1;

quant::QuantPlan plan_of(const Candidate& candidate, const model::ModuleTree& tree) {
  return quant::make_plan(uniform_recipe(candidate), tree, {.unquantizable_bf16 = true});
}

io::Json to_json(const calib::LayerStatistics& statistics) {
  io::Json amax = io::Json::object();
  for (const auto& [module, value] : statistics.input_amax) amax[module->name] = value;
  return amax;
}

calib::LayerStatistics statistics_from_json(const io::Json& json, const model::ModuleTree& tree) {
  calib::LayerStatistics statistics;
  for (const auto& [name, value] : json.items()) statistics.input_amax[tree.find(name)] = value;
  return statistics;
}

std::string statistics_key(int layer) { return fmt::format("statistics of layer {}", layer); }

std::vector<std::string> statistics_keys(int n_layers) {
  std::vector<std::string> keys;
  for (int layer = kOutsideStack; layer < n_layers; ++layer) keys.push_back(statistics_key(layer));
  return keys;
}

// What begins with a chunk's forward pass and ends with its backward pass.
struct Chunk {
  int64_t index = 0;
  int64_t first_row = 0;  // tokens in the chunks before
  runtime::Windows windows = {};
};

std::vector<Chunk> make_chunks(const runtime::Windows& windows, int64_t chunk_windows,
                               int64_t n_replicas) {
  const int64_t share = (std::ssize(windows) + n_replicas - 1) / n_replicas;
  const auto step = static_cast<size_t>(chunk_windows > 0 ? std::min(chunk_windows, share) : share);
  std::vector<Chunk> chunks;
  int64_t first_row = 0;
  for (size_t first = 0; first < windows.size(); first += step) {
    const auto begin = windows.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end =
        windows.begin() + static_cast<std::ptrdiff_t>(std::min(first + step, windows.size()));
    chunks.push_back({std::ssize(chunks), first_row, runtime::Windows(begin, end)});
    first_row += runtime::n_tokens(chunks.back().windows);
  }
  return chunks;
}

class Measurement {
 public:
  explicit Measurement(const SensitivityJob& job)
      : job_(job),
        ranks_(job.model.ranks()),
        tree_(job.model.tree()),
        n_layers_(static_cast<int>(tree_.layers().size())),
        groups_(make_groups(tree_)),
        layers_(model::layers_here(job.model)),
        amaxes_(job.weights, ranks_.tensor()),
        observed_plan_(plan_of(find_candidate("fp8"), tree_)),
        observer_(observed_plan_, 0),
        statistics_journal_(job.journal, ranks_.world(), statistics_keys(n_layers_)) {
    for (const Candidate* candidate : job.candidates) {
      VERNIER_CHECK(candidate->is_quantized());
      plans_.push_back(plan_of(*candidate, tree_));
    }
  }

  Sensitivity run() {
    const comm::Share replica = ranks_.place().data;
    const std::vector<Chunk> chunks = make_chunks(job_.windows, job_.chunk_windows, replica.count);
    // Replicas go on from chunk to chunk together, the last time some of them with none.
    const int64_t n_turns = (std::ssize(chunks) + replica.count - 1) / replica.count;
    std::vector<Chunk> own;
    runtime::Windows own_windows;
    for (int64_t turn = 0; turn < n_turns; ++turn) {
      const auto index = static_cast<size_t>(turn * replica.count + replica.index);
      own.push_back(index < chunks.size() ? chunks[index] : Chunk{});
      const runtime::Windows& windows = own.back().windows;
      own_windows.insert(own_windows.end(), windows.begin(), windows.end());
    }
    // A chunk each: the forward pass that scores begin with sees all of the text.
    const bool is_one_pass = n_turns == 1;
    if (!read_statistics() && !is_one_pass) observe(forward(own_windows, &observer_, nullptr));
    for (const Chunk& chunk : own) score(chunk);
    take_all();
    return collect();
  }

 private:
  std::string key(int64_t chunk, int layer) const {
    return fmt::format("scores of chunk {}, layer {}", chunk, layer);
  }
  const io::Json* find(const std::string& key) const {
    return job_.journal == nullptr ? nullptr : job_.journal->find(key);
  }
  void keep(const std::string& key, const io::Json& value) const {
    if (job_.journal != nullptr && find(key) == nullptr) job_.journal->append(key, value);
  }

  // Whether an earlier run saw all of the text.
  bool read_statistics() {
    if (statistics_journal_.find(statistics_key(kOutsideStack)) == nullptr) return false;
    for (int layer = kOutsideStack; layer < n_layers_; ++layer) {
      statistics_[layer] =
          statistics_from_json(*statistics_journal_.find(statistics_key(layer)), tree_);
    }
    return true;
  }

  runtime::HiddenStore forward(const runtime::Windows& windows, model::SiteHook* hook,
                               const runtime::LayerInputs* inputs) const {
    runtime::StreamOptions options;
    options.batch_windows = job_.batch_windows;
    options.placement = job_.placement;
    options.spill_directory = job_.spill_directory;
    options.hook = hook;
    options.inputs = inputs;
    options.progress = job_.progress;
    options.phases = job_.phases;
    options.label = hook != nullptr ? "calibrating" : "forward";
    return runtime::stream_layers(job_.model, job_.weights, windows, options);
  }

  // The head's input ends what a forward pass has shown; the head's layer is written last, since it
  // says that all are there.
  void observe(const runtime::HiddenStore& hidden) {
    if (ranks_.is_last_stage()) {
      runtime::visit_head_inputs(job_.model, job_.weights, hidden, [&](ConstAnyMatrixView normed) {
        observer_.on_input(job_.model.head(), normed);
      });
    }
    for (int layer = n_layers_ - 1; layer >= kOutsideStack; --layer) {
      statistics_[layer] =
          calib::statistics_of_ranks(observer_.layer(layer), tree_, layer, ranks_.world());
      statistics_journal_.append(statistics_key(layer), to_json(statistics_[layer]));
    }
  }

  // How many layers of this stage, from the last on, an earlier run has scored; of no chunk all.
  int64_t take_earlier(const Chunk& chunk, const std::vector<int>& layers) {
    if (chunk.windows.empty()) return std::ssize(layers);
    int64_t n_done = 0;
    for (const int layer : layers) {
      const std::string name = key(chunk.index, layer);
      if (find(name) == nullptr) break;
      own_scores_[name] = *find(name);
      ++n_done;
    }
    return n_done;
  }

  // Ranks that run candidates together begin with the same layer; and as long as one stage has
  // something to do, the others must lead to it.
  void score(const Chunk& chunk) {
    const std::vector<int> layers = scored_layers();
    const int64_t n_own = take_earlier(chunk, layers);
    const bool is_done = comm::least(ranks_.world(), n_own == std::ssize(layers) ? 1 : 0) == 1;
    const int64_t n_done = comm::least(ranks_.stage(), n_own);
    const bool is_idle = chunk.windows.empty() && ranks_.expert().size() == 1;
    const bool observes = statistics_.empty();
    if (is_done || (is_idle && !observes)) return;

    const int64_t n_rows = runtime::n_tokens(chunk.windows);
    runtime::LayerInputs inputs;
    for (int layer = 0; layer < n_layers_; ++layer) {
      inputs.push_back(new_store(layers_.holds(layer) ? n_rows : 0, 1));
    }
    const runtime::HiddenStore hidden =
        forward(chunk.windows, observes ? &observer_ : nullptr, &inputs);
    if (observes) observe(hidden);
    backward(chunk, {layers.begin() + n_done, layers.end()}, inputs, hidden);
  }

  // Of this stage, in the order in which a backward pass comes to them: the head first.
  std::vector<int> scored_layers() const {
    std::vector<int> layers;
    if (ranks_.is_last_stage()) layers.push_back(kOutsideStack);
    for (int64_t layer = layers_.end - 1; layer >= layers_.begin; --layer) {
      layers.push_back(static_cast<int>(layer));
    }
    return layers;
  }

  runtime::HiddenStore new_store(int64_t n_rows, int64_t n_matrices) const {
    return runtime::HiddenStore(n_rows, n_matrices * job_.model.hidden_size(), job_.placement,
                                job_.spill_directory, job_.weights.device());
  }

  // Scores `layers` on the way.
  void backward(const Chunk& chunk, const std::set<int>& layers, const runtime::LayerInputs& inputs,
                const runtime::HiddenStore& hidden) {
    std::vector<QuantizedWeights> candidates;
    for (const quant::QuantPlan& plan : plans_) {
      candidates.emplace_back(tree_, job_.weights, plan, statistics_, amaxes_, job_.arithmetic);
    }
    Scorer scorer(job_.model, groups_, plans_, candidates, chunk.windows,
                  {job_.kinds, chunk.first_row, job_.score_tokens, job_.seed, job_.phases});
    Keeper keeper(*this, chunk, layers, scorer);
    const runtime::BackwardOptions options{.batch_windows = job_.batch_windows,
                                           .visitor = &keeper,
                                           .progress = job_.progress,
                                           .phases = job_.phases,
                                           .label = "scoring"};
    const runtime::HiddenStore gradients =
        new_store(hidden.view().rows, static_cast<int64_t>(job_.kinds.n_losses()));
    const std::vector<runtime::LossGradient> losses = make_losses(chunk);
    runtime::backward_from_logits(job_.model, job_.weights, hidden, losses, gradients, options);
    runtime::stream_layers_backward(job_.model, job_.weights, chunk.windows, inputs, gradients,
                                    options);
  }

  // In the scorer's order. Each token's own: neither depends on how many tokens there are.
  std::vector<runtime::LossGradient> make_losses(const Chunk& chunk) const {
    std::vector<int32_t> targets;
    for (const auto& window : chunk.windows) {
      targets.insert(targets.end(), window.begin() + 1, window.end());
      targets.push_back(kernels::kNoTarget);
    }
    const auto cross_entropy = [targets = std::move(targets)](
                                   int64_t first_row, ConstAnyMatrixView logits, AnyMatrixView g) {
      kernels::cross_entropy_gradient(
          logits,
          std::span(targets).subspan(static_cast<size_t>(first_row), static_cast<size_t>(g.rows)),
          1.0f, g);
    };
    const auto probe = [this, first = chunk.first_row](int64_t first_row, ConstAnyMatrixView logits,
                                                       AnyMatrixView g) {
      kernels::fisher_probe(logits, job_.seed, static_cast<uint64_t>(first + first_row), 1.0f, g);
    };
    std::vector<runtime::LossGradient> losses;
    if (job_.kinds.fisher) losses.push_back(cross_entropy);
    if (job_.kinds.gauss_newton) losses.push_back(probe);
    return losses;
  }

  // Passes layers that are not done yet on to the scorer and makes its scores durable.
  class Keeper : public runtime::BackwardVisitor {
   public:
    Keeper(Measurement& measurement, const Chunk& chunk, const std::set<int>& layers,
           Scorer& scorer)
        : measurement_(measurement), chunk_(chunk), layers_(layers), scorer_(scorer) {}

    model::GradientHook* on_layer_begin(int layer) override {
      return layers_.contains(layer) ? scorer_.on_layer_begin(layer) : nullptr;
    }
    void on_batch_begin(int64_t first_row, int64_t n_rows) override {
      scorer_.on_batch_begin(first_row, n_rows);
    }
    void on_batch_done() override { scorer_.on_batch_done(); }
    void on_layer_done(int layer) override {
      scorer_.on_layer_done(layer);
      if (chunk_.windows.empty()) return;
      const std::string name = measurement_.key(chunk_.index, layer);
      io::Json& scores = measurement_.own_scores_[name];
      scores = to_json(scorer_.scores(), measurement_.groups_);
      measurement_.keep(name, scores);
    }

   private:
    Measurement& measurement_;
    const Chunk& chunk_;
    const std::set<int>& layers_;
    Scorer& scorer_;
  };

  // All ranks' scores, in the order of chunks, so that sums do not depend on who made them.
  void take_all() {
    const comm::Communicator& world = ranks_.world();
    io::Json all = io::Json::object();
    for (const std::string& part : world.gather(io::dump_json(own_scores_), 0)) {
      all.update(io::parse_json(part, "scores"));
    }
    all = io::parse_json(world.broadcast(io::dump_json(all), 0), "scores");
    const auto n_chunks = std::ssize(all) / (n_layers_ + 1);
    for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
      for (int layer = kOutsideStack; layer < n_layers_; ++layer) {
        take(layer_scores_from_json(all[key(chunk, layer)], groups_));
      }
    }
  }

  void take(const LayerScores& scores) {
    for (const auto& [group, candidates] : scores.sums) {
      Total& total = totals_[group];
      total.sums.resize(candidates.size());
      total.n_tokens += scores.n_tokens;
      for (size_t candidate = 0; candidate < candidates.size(); ++candidate) {
        if (!candidates[candidate]) continue;
        if (!total.sums[candidate]) total.sums[candidate].emplace();
        total.sums[candidate]->add(*candidates[candidate]);
      }
    }
  }

  Sensitivity collect() {
    Sensitivity result{std::move(statistics_), {}};
    for (size_t group = 0; group < groups_.size(); ++group) {
      const Total& total = totals_[group];
      const double scale = 0.5 / static_cast<double>(std::max<int64_t>(total.n_tokens, 1));
      GroupScores& scores = result.scores.emplace_back();
      for (const std::optional<ScoreSums>& sums : total.sums) {
        if (!sums) {
          scores.emplace_back();
          continue;
        }
        scores.push_back(Score{scale * sums->fisher, scale * sums->gauss_newton,
                               scale * sums->gauss_newton_windows, 0});
      }
    }
    return result;
  }

  struct Total {
    std::vector<std::optional<ScoreSums>> sums;  // by candidate
    int64_t n_tokens = 0;
  };

  const SensitivityJob& job_;
  const comm::Ranks& ranks_;
  const model::ModuleTree& tree_;
  int n_layers_;
  std::vector<ModuleGroup> groups_;
  comm::Range layers_;  // of this stage
  WeightAmaxes amaxes_;
  quant::QuantPlan observed_plan_;
  calib::AmaxObserver observer_;
  calib::SharedJournal statistics_journal_;  // the first rank's
  std::vector<quant::QuantPlan> plans_;      // by candidate
  Statistics statistics_;
  io::Json own_scores_ = io::Json::object();  // of this rank's chunks and layers, by key
  std::map<size_t, Total> totals_;            // by group
};

}  // namespace

Sensitivity measure_sensitivity(const SensitivityJob& job) { return Measurement(job).run(); }

}  // namespace vernier::search
