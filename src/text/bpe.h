// Byte-pair encoding of one piece of text: starts from its bytes and joins neighbouring tokens, the
// pair of lowest rank first, until no pair has a rank (Sennrich et al., 2016, section 3.2).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/token_id.h"

namespace vernier::text {

// Lets a map of strings be searched by a view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using Vocabulary = std::unordered_map<std::string, TokenId, StringHash, std::equal_to<>>;

struct Merge {
  TokenId left;
  TokenId right;
  TokenId result;
};

struct BpeModel {
  Vocabulary vocabulary;       // by the tokens' bytes
  std::vector<Merge> merges;   // in the order of their rank
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
};

// Thread-safe after construction.
class Bpe {
 public:
  // REQUIRES: every single byte is in the vocabulary.
  explicit Bpe(BpeModel model);

  // Appends the tokens of `piece`. Time n log n in its bytes.
  void encode(std::string_view piece, std::vector<TokenId>& ids) const;

  const Vocabulary& vocabulary() const { return model_.vocabulary; }

 private:
  struct RankedToken {
    int32_t rank;
    TokenId token;
  };
  class Merger;

  const RankedToken* find_merge(TokenId left, TokenId right) const;

  BpeModel model_;
  std::array<TokenId, 256> token_of_byte_;
  std::unordered_map<uint64_t, RankedToken> merge_of_pair_;
};

}  // namespace vernier::text
