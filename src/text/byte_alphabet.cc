#include "text/byte_alphabet.h"

#include <array>

#include "text/utf8.h"

namespace vernier::text {
namespace {

constexpr uint32_t kFirstSubstitute = 0x100;
constexpr int kNoByte = -1;

bool spells_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<uint32_t, 256> character_of_byte;
  std::array<int, 512> byte_of_character;  // the last substitute is U+0143
};

Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte_of_character.fill(kNoByte);
  uint32_t substitute = kFirstSubstitute;
  for (int byte = 0; byte < 256; ++byte) {
    const uint32_t character = spells_itself(byte) ? static_cast<uint32_t>(byte) : substitute++;
    alphabet.character_of_byte[byte] = character;
    alphabet.byte_of_character[character] = byte;
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet instance = make_alphabet();
  return instance;
}

}  // namespace

std::string spell_byte(uint8_t byte) {
  std::string spelling;
  append_utf8(alphabet().character_of_byte[byte], spelling);
  return spelling;
}

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  const auto& byte_of_character = alphabet().byte_of_character;
  std::string bytes;
  while (!spelling.empty()) {
    const Utf8Character character = first_character(spelling);
    if (character.state != Utf8Character::State::kComplete) return std::nullopt;
    if (character.code_point >= byte_of_character.size()) return std::nullopt;
    const int byte = byte_of_character[character.code_point];
    if (byte == kNoByte) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    spelling.remove_prefix(character.n_bytes);
  }
  return bytes;
}

}  // namespace vernier::text
