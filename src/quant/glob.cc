// Matching keeps one position to come back to, that of the last star: an earlier star never needs
// to take more, so the time is at most pattern x name.
#include "quant/glob.h"

#include <algorithm>
#include <optional>

namespace vernier::quant {

bool Glob::Token::accepts(char byte) const {
  const auto code = static_cast<unsigned char>(byte);
  const bool is_inside = std::any_of(ranges.begin(), ranges.end(), [&](const auto& range) {
    return static_cast<unsigned char>(range.first) <= code &&
           code <= static_cast<unsigned char>(range.second);
  });
  return is_inside != is_negated;
}

// The inside of [...]. "a-z" is a range wherever a character stands on both sides; a reversed range
// holds nothing.
Glob::Token Glob::parse_set(std::string_view body) {
  Token token{Token::Kind::kSet, body.substr(0, 1) == "!", {}};
  if (token.is_negated) body.remove_prefix(1);
  while (!body.empty()) {
    const bool is_range = body.size() >= 3 && body[1] == '-';
    token.ranges.emplace_back(body[0], body[is_range ? 2 : 0]);
    body.remove_prefix(is_range ? 3 : 1);
  }
  return token;
}

Glob::Glob(std::string_view pattern) {
  // The ']' that ends a set: one right after '[' or '[!' is a member.
  const auto set_end = [&](size_t begin) {
    if (pattern.substr(begin, 1) == "!") ++begin;
    if (pattern.substr(begin, 1) == "]") ++begin;
    return pattern.find(']', begin);
  };
  for (size_t at = 0; at < pattern.size(); ++at) {
    const char byte = pattern[at];
    if (byte == '*') {
      tokens_.push_back({Token::Kind::kStar, false, {}});
    } else if (byte == '?') {
      tokens_.push_back({Token::Kind::kSet, true, {}});
    } else if (const size_t end = set_end(at + 1); byte == '[' && end != pattern.npos) {
      tokens_.push_back(parse_set(pattern.substr(at + 1, end - at - 1)));
      at = end;
    } else {
      tokens_.push_back({Token::Kind::kOne, false, {{byte, byte}}});
    }
  }
}

bool Glob::matches(std::string_view name) const {
  struct Position {
    size_t token = 0;
    size_t byte = 0;
  };
  Position now;
  std::optional<Position> after_star;
  while (now.byte < name.size()) {
    const Token* token = now.token < tokens_.size() ? &tokens_[now.token] : nullptr;
    if (token && token->kind == Token::Kind::kStar) {
      after_star = Position{++now.token, now.byte};
    } else if (token && (token->kind == Token::Kind::kOne ? token->ranges[0].first == name[now.byte]
                                                          : token->accepts(name[now.byte]))) {
      ++now.token;
      ++now.byte;
    } else if (after_star) {
      ++after_star->byte;
      now = *after_star;
    } else {
      return false;
    }
  }
  return std::all_of(tokens_.begin() + static_cast<long>(now.token), tokens_.end(),
                     [](const Token& token) { return token.kind == Token::Kind::kStar; });
}

}  // namespace vernier::quant
