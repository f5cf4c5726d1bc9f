// Fuzz target: a tokenizer.json, a zero byte, a text. Whatever the file says, the only way out is
// an Error or a tokenizer that decodes its own ids.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), input.size());
  try {
    const vernier::text::Tokenizer tokenizer(input.substr(0, end), "tokenizer.json");
    const std::string_view text = input.substr(std::min(end + 1, input.size()));
    tokenizer.decode(tokenizer.encode(text, true), true);
  } catch (const vernier::Error&) {
  }
  return 0;
}
