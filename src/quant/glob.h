// Shell-style patterns as Python's fnmatch.fnmatchcase reads them: *, ?, [seq], [!seq] over the
// whole name. A `*` crosses dots; there is no escape character and no {a,b}.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace vernier::quant {

class Glob {
 public:
  explicit Glob(std::string_view pattern);

  // True when the pattern matches all of `name`. Byte by byte, case-sensitive.
  bool matches(std::string_view name) const;

 private:
  struct Token {
    enum class Kind { kOne, kStar, kSet } kind = Kind::kOne;
    bool is_negated = false;
    // Inclusive ranges of bytes; `?` is the negation of none.
    std::vector<std::pair<char, char>> ranges;

    bool accepts(char byte) const;
  };

  static Token parse_set(std::string_view body);

  std::vector<Token> tokens_;
};

}  // namespace vernier::quant
