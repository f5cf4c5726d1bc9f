// Added tokens: texts that become one token wherever they occur, before any other splitting.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text/token_id.h"

namespace vernier::text {

// One entry of `added_tokens` in tokenizer.json, with its names.
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;     // left out of decoded text on request
  bool lstrip = false;      // takes the white space before it
  bool rstrip = false;      // takes the white space after it
  bool normalized = false;  // searched in a second pass, in what the others leave
};

// Finds added tokens: leftmost first, the longest of those that start there. Thread-safe after
// construction.
class AddedTokenSplitter {
 public:
  // REQUIRES: no content is empty.
  explicit AddedTokenSplitter(const std::vector<AddedToken>& tokens);

  // Covers `text` from left to right: `on_text` for the (not empty) text between tokens, `on_token`
  // for each token, until one of them returns false; returns false then.
  using TextSink = std::function<bool(std::string_view)>;
  using TokenSink = std::function<bool(TokenId)>;
  bool split(std::string_view text, const TextSink& on_text, const TokenSink& on_token) const;

 private:
  static constexpr int kNone = -1;

  // A trie of the contents' bytes.
  struct Node {
    std::map<char, int> children;
    int token = kNone;
  };
  struct Match {
    size_t start;
    size_t end;
    int token;
  };

  Match find(std::string_view text, size_t from) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::vector<bool> starts_token_;  // by byte
};

}  // namespace vernier::text
