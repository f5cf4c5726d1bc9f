// UTF-8, one character at a time: what the byte alphabet and the stream decoder need. Whole texts
// are checked by is_valid_utf8 (base/file.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace vernier::text {

// What stands at the start of some bytes (Unicode, section 3.9, table 3-7).
struct Utf8Character {
  enum class State {
    kComplete,   // a character of `n_bytes`
    kTruncated,  // the bytes end inside a character that could still be completed
    kInvalid,    // `n_bytes` are the longest start of a character, at least one byte
  };
  State state;
  size_t n_bytes;
  uint32_t code_point;  // of a complete character
};

// REQUIRES: `bytes` is not empty.
Utf8Character first_character(std::string_view bytes);

void append_utf8(uint32_t code_point, std::string& out);

}  // namespace vernier::text
