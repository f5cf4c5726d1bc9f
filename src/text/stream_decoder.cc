#include <utility>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace vernier::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Moves the decided bytes out of `pending`: whole characters as they are, each wrong start of one
// as U+FFFD. What could still become a character stays.
std::string take_decided(std::string& pending) {
  std::string text;
  std::string_view rest = pending;
  while (!rest.empty()) {
    const Utf8Character character = first_character(rest);
    if (character.state == Utf8Character::State::kTruncated) break;
    const bool is_complete = character.state == Utf8Character::State::kComplete;
    text += is_complete ? rest.substr(0, character.n_bytes) : kReplacement;
    rest.remove_prefix(character.n_bytes);
  }
  pending = std::string(rest);
  return text;
}

}  // namespace

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamDecoder::push(TokenId id) {
  pending_ += tokenizer_.decode({id}, skip_special_);
  return take_decided(pending_);
}

std::string StreamDecoder::finish() {
  const bool holds_bytes = !std::exchange(pending_, {}).empty();
  return holds_bytes ? std::string(kReplacement) : std::string();
}

}  // namespace vernier::text
