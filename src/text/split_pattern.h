// The pattern of a split step: a regular expression from tokenizer.json, matched by PCRE2, or a
// literal string. Cuts a text into the stretches that match and those between them.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

namespace vernier::text {

// Thread-safe after construction.
class SplitPattern {
 public:
  // tokenizer.json is written for the Oniguruma library. Both libraries read the common constructs
  // alike; what they read differently is translated, or refused with Unsupported. A pattern that
  // does not compile is Corrupt, one that can match nothing at all Unsupported.
  static SplitPattern regex(std::string_view pattern);
  static SplitPattern literal(std::string_view text);

  // Calls `sink(stretch, is_match)` for stretches that cover `text` from left to right, until it
  // returns false; returns false then. Throws Unsupported when matching passes PCRE2's limits.
  // REQUIRES: `text` is valid UTF-8.
  using Sink = std::function<bool(std::string_view stretch, bool is_match)>;
  bool for_each_stretch(std::string_view text, const Sink& sink) const;

 private:
  struct Code;  // PCRE2's compiled pattern
  explicit SplitPattern(std::shared_ptr<const Code> code) : code_(std::move(code)) {}

  std::shared_ptr<const Code> code_;
};

}  // namespace vernier::text
