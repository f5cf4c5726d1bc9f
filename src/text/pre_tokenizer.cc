#include "text/pre_tokenizer.h"

#include <span>

namespace vernier::text {
namespace {

// Whether a stretch belongs to the piece that the stretch before it ended.
bool joins(SplitBehavior behavior, bool previous_is_match, bool is_match) {
  switch (behavior) {
    case SplitBehavior::kIsolated:
    case SplitBehavior::kRemoved:
      return false;
    case SplitBehavior::kMergedWithPrevious:
      return is_match && !previous_is_match;
    case SplitBehavior::kMergedWithNext:
      return previous_is_match && !is_match;
    case SplitBehavior::kContiguous:
      return previous_is_match == is_match;
  }
  return false;
}

bool apply_step(const SplitStep& step, std::string_view text, const PieceSink& sink) {
  std::string_view piece;  // not handed on yet: the next stretch may join it
  bool piece_ends_in_match = false;
  const auto take = [&](std::string_view stretch, bool matches) {
    const bool is_match = matches != step.invert;
    if (!piece.empty() && joins(step.behavior, piece_ends_in_match, is_match)) {
      piece = {piece.data(), piece.size() + stretch.size()};
    } else {
      if (!piece.empty() && !sink(piece)) return false;
      const bool is_dropped = is_match && step.behavior == SplitBehavior::kRemoved;
      piece = is_dropped ? std::string_view() : stretch;
    }
    piece_ends_in_match = is_match;
    return true;
  };
  if (!step.pattern.for_each_stretch(text, take)) return false;
  return piece.empty() || sink(piece);
}

bool apply_steps(std::span<const SplitStep> steps, std::string_view text, const PieceSink& sink) {
  if (steps.empty()) return text.empty() || sink(text);
  if (steps.size() == 1) return apply_step(steps[0], text, sink);
  return apply_step(steps[0], text, [&](std::string_view piece) {
    return apply_steps(steps.subspan(1), piece, sink);
  });
}

}  // namespace

bool for_each_piece(const std::vector<SplitStep>& steps, std::string_view text,
                    const PieceSink& sink) {
  return apply_steps(steps, text, sink);
}

}  // namespace vernier::text
