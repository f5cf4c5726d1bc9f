// The byte alphabet of GPT-2: in tokenizer.json every byte of a token is spelled as one printable
// character, so that a vocabulary of arbitrary bytes is valid JSON text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace vernier::text {

// The character that spells `byte`: itself where it is printable Latin-1 other than the space, else
// one from U+0100 on, in the order of the bytes. A space is U+0120.
std::string spell_byte(uint8_t byte);

// The bytes of a token's spelling; nothing when a character is not of the alphabet, as in an added
// token that contains a space.
std::optional<std::string> bytes_of_spelling(std::string_view spelling);

}  // namespace vernier::text
