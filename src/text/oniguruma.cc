#include "text/oniguruma.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace vernier::text {
namespace {

bool is_ascii_letter_or_digit(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 && static_cast<unsigned char>(c) < 0x80;
}

// Walks the pattern once and copies what both libraries understand alike.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : rest_(pattern), n_bytes_(pattern.size()) {}

  std::string run() {
    while (!rest_.empty()) {
      if (rest_[0] == '\\') {
        translate_escape();
      } else if (in_class_) {
        translate_in_class();
      } else {
        translate_outside_class();
      }
    }
    return std::move(out_);
  }

 private:
  void copy(size_t n_bytes) {
    out_ += rest_.substr(0, n_bytes);
    rest_.remove_prefix(std::min(n_bytes, rest_.size()));
  }

  void replace(size_t n_bytes, std::string_view replacement) {
    out_ += replacement;
    rest_.remove_prefix(n_bytes);
  }

  size_t length_to(char last) const {
    const size_t end = rest_.find(last);
    return end == rest_.npos ? rest_.size() : end + 1;
  }

  [[noreturn]] void refuse(size_t n_bytes) const {
    throw Error(ErrorKind::kUnsupported,
                fmt::format("the pattern has '{}' at byte {}, which is not implemented",
                            rest_.substr(0, n_bytes), n_bytes_ - rest_.size()));
  }

  // PCRE2's \s also holds U+180E, which lost the property White_Space in Unicode 6.3. \w and others
  // differ more and occur in no byte-level tokenizer.
  void translate_escape() {
    const char kind = rest_.size() > 1 ? rest_[1] : '\0';
    if (kind == 's') return replace(2, "\\p{White_Space}");
    if (kind == 'S') return replace(2, "\\P{White_Space}");
    if (kind == 'p' || kind == 'P') return copy_category();
    if (kind == 'x' && rest_.substr(2, 1) == "{") return copy(length_to('}'));
    if (is_ascii_letter_or_digit(kind) && std::string_view("rntfdD").find(kind) == rest_.npos) {
      refuse(2);
    }
    copy(2);
  }

  // General categories only: of scripts PCRE2 takes the extended ones, Oniguruma the plain ones.
  void copy_category() {
    const size_t n_bytes = length_to('}');
    std::string_view name = rest_.substr(0, n_bytes);
    name.remove_prefix(std::min<size_t>(name.size(), 3));
    if (!name.empty() && name[0] == '^') name.remove_prefix(1);
    if (rest_.substr(2, 1) != "{" || name.size() < 2 || name.size() > 3) refuse(n_bytes);
    copy(n_bytes);
  }

  // Oniguruma nests and intersects classes where PCRE2 sees plain characters.
  void translate_in_class() {
    if (rest_[0] == '[') refuse(1);
    if (rest_.substr(0, 2) == "&&") refuse(2);
    if (rest_[0] == ']') in_class_ = false;
    copy(1);
  }

  void translate_outside_class() {
    switch (rest_[0]) {
      case '[': {
        const size_t n_open = rest_.substr(1, 1) == "^" ? 2 : 1;
        if (rest_.substr(n_open, 1) == "]") refuse(n_open + 1);
        in_class_ = true;
        return copy(n_open);
      }
      case '(':
        return copy_group();
      case '{':
        if (rest_.substr(1, 1) == ",") refuse(2);
        return copy(1);
      case '}':  // a{1,2}+ is possessive in PCRE2, a repetition of a repetition in Oniguruma
        if (rest_.substr(1, 1) == "+") refuse(2);
        return copy(1);
      default:
        return copy(1);
    }
  }

  // Options and control verbs mean different things; groups and look-around the same.
  void copy_group() {
    const std::string_view next = rest_.substr(1, 1);
    if (next == "*") refuse(2);
    if (next != "?") return copy(1);
    for (std::string_view group : {"(?:", "(?i:", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (rest_.substr(0, group.size()) == group) return copy(group.size());
    }
    refuse(3);
  }

  std::string_view rest_;
  size_t n_bytes_;
  bool in_class_ = false;
  std::string out_;
};

}  // namespace

std::string oniguruma_to_pcre2(std::string_view pattern) { return Translator(pattern).run(); }

}  // namespace vernier::text
