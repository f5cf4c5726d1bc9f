#include "text/utf8.h"

namespace vernier::text {
namespace {

struct Lead {
  size_t n_bytes;  // of the whole character, 0 for a byte that starts none
  unsigned low;    // the range of the second byte: it rules out overlong forms and surrogates
  unsigned high;
};

Lead classify(unsigned byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  return {0, 0, 0};
}

}  // namespace

Utf8Character first_character(std::string_view bytes) {
  const auto byte = [&](size_t index) -> unsigned {
    return static_cast<unsigned char>(bytes[index]);
  };
  const Lead lead = classify(byte(0));
  if (lead.n_bytes == 0) return {Utf8Character::State::kInvalid, 1, 0};
  if (lead.n_bytes == 1) return {Utf8Character::State::kComplete, 1, byte(0)};

  uint32_t code_point = byte(0) & (0x7Fu >> lead.n_bytes);
  for (size_t index = 1; index < lead.n_bytes; ++index) {
    if (index == bytes.size()) return {Utf8Character::State::kTruncated, index, 0};
    const unsigned low = index == 1 ? lead.low : 0x80;
    const unsigned high = index == 1 ? lead.high : 0xBF;
    if (byte(index) < low || byte(index) > high) {
      return {Utf8Character::State::kInvalid, index, 0};
    }
    code_point = code_point << 6 | (byte(index) & 0x3F);
  }
  return {Utf8Character::State::kComplete, lead.n_bytes, code_point};
}

void append_utf8(uint32_t code_point, std::string& out) {
  const auto append = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  const auto append_tail = [&](int shift) { append(0x80 | (code_point >> shift & 0x3F)); };
  if (code_point < 0x80) {
    append(code_point);
  } else if (code_point < 0x800) {
    append(0xC0 | code_point >> 6);
    append_tail(0);
  } else if (code_point < 0x10000) {
    append(0xE0 | code_point >> 12);
    append_tail(6);
    append_tail(0);
  } else {
    append(0xF0 | code_point >> 18);
    append_tail(12);
    append_tail(6);
    append_tail(0);
  }
}

}  // namespace vernier::text
