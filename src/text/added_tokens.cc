#include "text/added_tokens.h"

#include <algorithm>

#include "text/utf8.h"

namespace vernier::text {
namespace {

// The property White_Space (Unicode, PropList.txt).
bool is_white_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

size_t white_space_bytes_at_start(std::string_view text) {
  size_t n_bytes = 0;
  while (n_bytes < text.size()) {
    const Utf8Character character = first_character(text.substr(n_bytes));
    if (!is_white_space(character.code_point)) break;
    n_bytes += character.n_bytes;
  }
  return n_bytes;
}

// REQUIRES: `text` is not empty.
std::string_view last_character(std::string_view text) {
  size_t start = text.size() - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return text.substr(start);
}

size_t white_space_bytes_at_end(std::string_view text) {
  size_t n_kept = text.size();
  while (n_kept > 0) {
    const std::string_view last = last_character(text.substr(0, n_kept));
    if (!is_white_space(first_character(last).code_point)) break;
    n_kept -= last.size();
  }
  return text.size() - n_kept;
}

}  // namespace

AddedTokenSplitter::AddedTokenSplitter(const std::vector<AddedToken>& tokens)
    : tokens_(tokens), nodes_(1), starts_token_(256) {
  for (size_t token = 0; token < tokens_.size(); ++token) {
    size_t node = 0;
    for (char byte : tokens_[token].content) {
      const auto [child, is_new] =
          nodes_[node].children.try_emplace(byte, static_cast<int>(nodes_.size()));
      node = static_cast<size_t>(child->second);
      if (is_new) nodes_.emplace_back();
    }
    nodes_[node].token = static_cast<int>(token);
    starts_token_[static_cast<unsigned char>(tokens_[token].content[0])] = true;
  }
}

AddedTokenSplitter::Match AddedTokenSplitter::find(std::string_view text, size_t from) const {
  for (size_t start = from; start < text.size(); ++start) {
    if (!starts_token_[static_cast<unsigned char>(text[start])]) continue;
    Match match{start, start, kNone};
    const Node* node = &nodes_[0];
    for (size_t end = start; end < text.size(); ++end) {
      const auto child = node->children.find(text[end]);
      if (child == node->children.end()) break;
      node = &nodes_[static_cast<size_t>(child->second)];
      if (node->token != kNone) match = {start, end + 1, node->token};
    }
    if (match.token != kNone) return match;
  }
  return {text.size(), text.size(), kNone};
}

bool AddedTokenSplitter::split(std::string_view text, const TextSink& on_text,
                               const TokenSink& on_token) const {
  size_t done = 0;  // everything before it has been handed on
  for (Match match = find(text, 0); match.token != kNone; match = find(text, match.end)) {
    const AddedToken& token = tokens_[static_cast<size_t>(match.token)];
    const size_t n_left = token.lstrip ? white_space_bytes_at_end(text.substr(0, match.start)) : 0;
    const size_t n_right = token.rstrip ? white_space_bytes_at_start(text.substr(match.end)) : 0;
    // White space that the token before has taken is not taken again.
    const size_t start = std::max(match.start - n_left, done);
    if (start > done && !on_text(text.substr(done, start - done))) return false;
    if (!on_token(token.id)) return false;
    done = match.end + n_right;
  }
  return done >= text.size() || on_text(text.substr(done));
}

}  // namespace vernier::text
