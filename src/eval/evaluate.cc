#include "eval/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/error.h"
#include "eval/estimate.h"
#include "kernels/score.h"
#include "runtime/head.h"

namespace vernier::eval {
namespace {

// What is summed over the positions of a window, or is the share of one.
struct Sums {
  double nll = 0;  // a window's last position predicts nothing and adds 0
  double kl = 0;
  double n_agreeing = 0;
};

// Adds a piece of a window, which starts at its position `start`; positions in order.
void add_piece(const std::vector<text::TokenId>& window, int64_t start, ConstAnyMatrixView base,
               ConstAnyMatrixView logits, Sums& sums) {
  std::vector<int32_t> targets;
  for (int64_t row = 0; row < logits.rows; ++row) {
    const auto next = static_cast<size_t>(start + row + 1);
    targets.push_back(next < window.size() ? window[next] : kernels::kNoTarget);
  }
  std::vector<kernels::TokenScore> scores(targets.size());
  kernels::score_logits(base, logits, targets, scores);
  for (const kernels::TokenScore& score : scores) {
    sums.nll += score.nll;
    sums.kl += score.kl;
    sums.n_agreeing += score.is_agreed ? 1 : 0;
  }
}

// Logits are made in pieces: enough tokens for the head's product to run well, little enough
// memory.
int64_t piece_tokens(int64_t vocab_size) {
  constexpr int64_t kPieceLogits = int64_t{16} << 20;  // 64 MiB
  return std::clamp<int64_t>(kPieceLogits / vocab_size, 16, 512);
}

class Evaluation {
 public:
  Evaluation(const std::vector<Candidate>& candidates, const runtime::Windows& windows,
             const EvaluateOptions& options)
      : candidates_(candidates),
        ranks_(candidates.front().model.ranks()),
        windows_(windows),
        here_(comm::part_of(std::ssize(windows), ranks_.place().data)),
        own_windows_(windows.begin() + here_.begin, windows.begin() + here_.end),
        options_(options) {}

  std::vector<Score> run() const {
    check_vocabularies();
    const runtime::HiddenStore base = final_hidden(0);
    const std::vector<Sums> base_sums = measure(0, base, base);
    std::vector<Score> scores = {summarize(0, base_sums, base_sums)};
    for (size_t index = 1; index < candidates_.size(); ++index) {
      const runtime::HiddenStore hidden = final_hidden(index);
      scores.push_back(summarize(index, base_sums, measure(index, base, hidden)));
      candidates_[index].weights.done_with(candidates_[index].model.head());
    }
    return scores;
  }

 private:
  void check_vocabularies() const {
    const int64_t expected = candidates_[0].model.vocab_size();
    for (const Candidate& candidate : candidates_) {
      if (candidate.model.vocab_size() == expected) continue;
      throw Error(ErrorKind::kInvalidArgument,
                  fmt::format("{}: has a vocabulary of {}, expected {} as in {}", candidate.label,
                              candidate.model.vocab_size(), expected, candidates_[0].label));
    }
  }

  runtime::HiddenStore final_hidden(size_t index) const {
    const Candidate& candidate = candidates_[index];
    runtime::StreamOptions stream = options_.stream;
    stream.progress = options_.progress;
    stream.label = fmt::format("evaluating {}", candidate.label);
    return runtime::stream_layers(candidate.model, candidate.weights, own_windows_, stream);
  }

  // Sums by window.
  std::vector<Sums> measure(size_t index, const runtime::HiddenStore& base,
                            const runtime::HiddenStore& own) const {
    std::vector<Sums> sums(windows_.size());
    int64_t first_row = 0;
    for (size_t window = 0; ranks_.is_last_stage() && window < own_windows_.size(); ++window) {
      const std::vector<text::TokenId>& ids = own_windows_[window];
      sums[static_cast<size_t>(here_.begin) + window] =
          measure_window(index, ids, first_row, base, own);
      first_row += std::ssize(ids);
    }
    return of_all_ranks(sums);
  }

  // Each rank has its own windows and zeros elsewhere; of tensor ranks, which all have the same,
  // the first counts.
  std::vector<Sums> of_all_ranks(const std::vector<Sums>& own) const {
    const comm::Communicator& world = ranks_.world();
    if (world.size() == 1) return own;
    std::vector<double> flat;
    for (const Sums& sums : own) {
      for (const double value : {sums.nll, sums.kl, sums.n_agreeing}) {
        flat.push_back(ranks_.tensor().rank() == 0 ? value : 0);
      }
    }
    world.sum(std::span(flat));
    std::vector<Sums> all;
    for (size_t first = 0; first < flat.size(); first += 3) {
      all.push_back({flat[first], flat[first + 1], flat[first + 2]});
    }
    return all;
  }

  // `first_row` is the window's first in both stores.
  Sums measure_window(size_t index, const std::vector<text::TokenId>& window, int64_t first_row,
                      const runtime::HiddenStore& base, const runtime::HiddenStore& own) const {
    const auto n_tokens = static_cast<int64_t>(window.size());
    const int64_t step = piece_tokens(candidates_[0].model.vocab_size());
    Sums sums;
    for (int64_t start = 0; start < n_tokens; start += step) {
      const int64_t n_rows = std::min(step, n_tokens - start);
      const AnyMatrix logits = logits_of(index, own, first_row + start, n_rows);
      if (options_.on_logits) options_.on_logits(index, first_row + start, logits);
      if (index == 0) {
        add_piece(window, start, logits, logits, sums);
      } else {
        add_piece(window, start, logits_of(0, base, first_row + start, n_rows), logits, sums);
      }
    }
    return sums;
  }

  AnyMatrix logits_of(size_t index, const runtime::HiddenStore& hidden, int64_t first_row,
                      int64_t n_rows) const {
    const Candidate& candidate = candidates_[index];
    AnyMatrix logits(n_rows, candidate.model.vocab_size(), DType::kF32, candidate.weights.device());
    hidden.read(first_row, n_rows, [&](ConstAnyMatrixView rows) {
      runtime::compute_logits(candidate.model, candidate.weights, rows, nullptr, logits);
    });
    return logits;
  }

  Score summarize(size_t index, const std::vector<Sums>& base, const std::vector<Sums>& own) const {
    std::vector<WindowSum> nll, nll_change, kl, agreement;
    for (size_t window = 0; window < windows_.size(); ++window) {
      const auto n_positions = static_cast<double>(windows_[window].size());
      const double n_predicted = std::max(0.0, n_positions - 1);
      nll.push_back({own[window].nll, n_predicted});
      nll_change.push_back({own[window].nll - base[window].nll, n_predicted});
      kl.push_back({own[window].kl, n_positions});
      agreement.push_back({own[window].n_agreeing, n_positions});
    }
    const double mean_nll = estimate_mean(nll).mean;
    return {.label = candidates_[index].label,
            .perplexity = std::exp(mean_nll),
            .mean_nll = mean_nll,
            .nll_change = estimate_mean(nll_change),
            .kl = estimate_mean(kl),
            .top1_agreement = estimate_mean(agreement)};
  }

  const std::vector<Candidate>& candidates_;
  const comm::Ranks& ranks_;
  const runtime::Windows& windows_;  // of all ranks
  comm::Range here_;                 // those of this rank's replica
  runtime::Windows own_windows_;
  const EvaluateOptions& options_;
};

}  // namespace

std::vector<Score> evaluate(const std::vector<Candidate>& candidates,
                            const runtime::Windows& windows, const EvaluateOptions& options) {
  VERNIER_CHECK(!candidates.empty() && !windows.empty());
  return Evaluation(candidates, windows, options).run();
}

}  // namespace vernier::eval
