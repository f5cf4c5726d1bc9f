#include "eval/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/check.h"
#include "base/error.h"
#include "eval/estimate.h"
#include "kernels/log_softmax.h"
#include "runtime/head.h"

namespace vernier::eval {
namespace {

// What is summed over the positions of a window, or is the share of one.
struct Sums {
  double nll = 0;  // a window's last position predicts nothing and adds 0
  double kl = 0;
  double n_agreeing = 0;
};

// One position, scored against the baseline's logits for the same position.
Sums score_position(std::span<const float> base, std::span<const float> logits,
                    std::optional<text::TokenId> target) {
  Sums position;
  if (target) position.nll = kernels::log_sum_exp(logits) - logits[static_cast<size_t>(*target)];
  if (base.data() == logits.data()) {  // the baseline itself
    position.n_agreeing = 1;
    return position;
  }
  position.kl = kernels::kl_divergence(base, logits);
  position.n_agreeing = kernels::argmax(base) == kernels::argmax(logits) ? 1 : 0;
  return position;
}

// Adds a piece of a window, which starts at its position `start`. Positions are scored in parallel
// and added in order.
void add_piece(const std::vector<text::TokenId>& window, int64_t start, ConstMatrixView base,
               ConstMatrixView logits, Sums& sums) {
  std::vector<Sums> positions(static_cast<size_t>(logits.rows));
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < logits.rows; ++row) {
    const auto next = static_cast<size_t>(start + row + 1);
    const auto target = next < window.size() ? std::optional(window[next]) : std::nullopt;
    positions[static_cast<size_t>(row)] = score_position(base.row(row), logits.row(row), target);
  }
  for (const Sums& position : positions) {
    sums.nll += position.nll;
    sums.kl += position.kl;
    sums.n_agreeing += position.n_agreeing;
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
      : candidates_(candidates), windows_(windows), options_(options) {}

  std::vector<Score> run() const {
    check_vocabularies();
    const runtime::HiddenStore base = final_hidden(0);
    const std::vector<Sums> base_sums = measure(0, base.view(), base.view());
    std::vector<Score> scores = {summarize(0, base_sums, base_sums)};
    for (size_t index = 1; index < candidates_.size(); ++index) {
      const runtime::HiddenStore hidden = final_hidden(index);
      scores.push_back(summarize(index, base_sums, measure(index, base.view(), hidden.view())));
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
    return runtime::stream_layers(candidate.model, candidate.weights, windows_, stream);
  }

  // Sums by window.
  std::vector<Sums> measure(size_t index, ConstMatrixView base_hidden,
                            ConstMatrixView hidden) const {
    std::vector<Sums> sums;
    int64_t first_row = 0;
    for (const std::vector<text::TokenId>& window : windows_) {
      const auto n_rows = static_cast<int64_t>(window.size());
      sums.push_back(measure_window(index, window, first_row,
                                    base_hidden.row_range(first_row, n_rows),
                                    hidden.row_range(first_row, n_rows)));
      first_row += n_rows;
    }
    return sums;
  }

  Sums measure_window(size_t index, const std::vector<text::TokenId>& window, int64_t first_row,
                      ConstMatrixView base_hidden, ConstMatrixView hidden) const {
    const int64_t step = piece_tokens(candidates_[0].model.vocab_size());
    Sums sums;
    for (int64_t start = 0; start < hidden.rows; start += step) {
      const int64_t n_rows = std::min(step, hidden.rows - start);
      const Matrix logits = logits_of(index, hidden.row_range(start, n_rows));
      if (options_.on_logits) options_.on_logits(index, first_row + start, logits);
      if (index == 0) {
        add_piece(window, start, logits, logits, sums);
      } else {
        add_piece(window, start, logits_of(0, base_hidden.row_range(start, n_rows)), logits, sums);
      }
    }
    return sums;
  }

  Matrix logits_of(size_t index, ConstMatrixView hidden) const {
    const Candidate& candidate = candidates_[index];
    Matrix logits(hidden.rows, candidate.model.vocab_size());
    runtime::compute_logits(candidate.model, candidate.weights, hidden, nullptr, logits);
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
  const runtime::Windows& windows_;
  const EvaluateOptions& options_;
};

}  // namespace

std::vector<Score> evaluate(const std::vector<Candidate>& candidates,
                            const runtime::Windows& windows, const EvaluateOptions& options) {
  VERNIER_CHECK(!candidates.empty() && !windows.empty());
  return Evaluation(candidates, windows, options).run();
}

}  // namespace vernier::eval
