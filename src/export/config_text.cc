#include "export/config_text.h"

#include <algorithm>
#include <cctype>

#include "base/check.h"

namespace vernier::exporting {
namespace {

// Cuts JSON text into tokens: strings with their quotes, punctuation, and words (numbers,
// literals).
class Tokens {
 public:
  explicit Tokens(std::string_view text) : text_(text) {}

  // Empty at the end.
  std::string_view next() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
    const size_t begin = at_;
    if (begin == text_.size()) return {};
    if (text_[begin] == '"') {
      skip_string();
    } else if (is_punctuation(text_[begin])) {
      ++at_;
    } else {
      while (at_ < text_.size() && !is_space(text_[at_]) && !is_punctuation(text_[at_])) ++at_;
    }
    return text_.substr(begin, at_ - begin);
  }
  // The offset after the last token.
  size_t offset() const { return at_; }

 private:
  static bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
  static bool is_punctuation(char c) {
    return std::string_view("{}[],:").find(c) != std::string_view::npos;
  }

  void skip_string() {
    ++at_;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    at_ = std::min(at_ + 1, text_.size());
  }

  std::string_view text_;
  size_t at_ = 0;
};

bool opens(std::string_view token) { return token == "{" || token == "["; }
bool closes(std::string_view token) { return token == "}" || token == "]"; }

std::string lay_out(std::string_view text, int indent) {
  std::string out;
  int depth = 0;
  const auto new_line = [&] {
    out += '\n' + std::string(static_cast<size_t>(indent * depth), ' ');
  };
  Tokens tokens(text);
  bool is_empty = false;  // the innermost bracket was only just opened
  for (std::string_view token = tokens.next(); !token.empty(); token = tokens.next()) {
    if (closes(token)) {
      --depth;
      if (!is_empty) new_line();
    } else if (is_empty) {
      new_line();
    }
    out += token;
    is_empty = opens(token);
    if (is_empty) ++depth;
    if (token == ",") new_line();
    if (token == ":") out += ' ';
  }
  return out;
}

}  // namespace

std::vector<ObjectMember> split_object(std::string_view text) {
  std::vector<ObjectMember> members;
  Tokens tokens(text);
  VERNIER_CHECK(tokens.next() == "{");
  for (std::string_view token = tokens.next(); token != "}"; token = tokens.next()) {
    if (token == ",") token = tokens.next();
    VERNIER_CHECK(token.size() >= 2 && token.front() == '"');
    const std::string_view key = token.substr(1, token.size() - 2);
    VERNIER_CHECK(tokens.next() == ":");
    token = tokens.next();
    const size_t begin = tokens.offset() - token.size();
    for (int depth = opens(token) ? 1 : 0; depth > 0;) {
      token = tokens.next();
      VERNIER_CHECK(!token.empty());
      depth += opens(token) ? 1 : closes(token) ? -1 : 0;
    }
    members.push_back({std::string(key), std::string(text.substr(begin, tokens.offset() - begin))});
  }
  return members;
}

std::string join_object(const std::vector<ObjectMember>& members, int indent) {
  std::string text = "{";
  for (const ObjectMember& member : members) {
    if (text.size() > 1) text += ',';
    text += '"' + member.key + "\":" + member.value;
  }
  return lay_out(text + '}', indent);
}

void set_member(std::vector<ObjectMember>& members, std::string_view key, std::string value) {
  for (ObjectMember& member : members) {
    if (member.key == key) {
      member.value = std::move(value);
      return;
    }
  }
  members.push_back({std::string(key), std::move(value)});
}

void remove_member(std::vector<ObjectMember>& members, std::string_view key) {
  members.erase(std::remove_if(members.begin(), members.end(),
                               [&](const ObjectMember& member) { return member.key == key; }),
                members.end());
}

}  // namespace vernier::exporting
