// Cuts a text into the pieces within which byte pairs are merged: the `pre_tokenizer` of
// tokenizer.json as a list of split steps, each applied to the pieces of the one before.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "text/split_pattern.h"

namespace vernier::text {

// What becomes of the stretches that match, named as in tokenizer.json.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  SplitPattern pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // what does not match counts as the match, and the other way round
};

// Calls `sink` with each piece from left to right until it returns false; returns false then.
// REQUIRES: `text` is valid UTF-8.
using PieceSink = std::function<bool(std::string_view piece)>;
bool for_each_piece(const std::vector<SplitStep>& steps, std::string_view text,
                    const PieceSink& sink);

}  // namespace vernier::text
