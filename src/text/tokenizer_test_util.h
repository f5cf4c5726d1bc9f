// A small valid tokenizer.json for tests, in sections that a test may replace.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "text/byte_alphabet.h"
#include "text/tokenizer.h"

namespace vernier::text {

// 256 byte tokens (the id is the byte), then "ab" = 256, "abc" = 257 and "the" = 258; added "<s>" =
// 259 (special) and "<think>" = 260. Only the first two can be merged.
struct TokenizerJson {
  std::string added_tokens =
      R"([{"id":259,"content":"<s>","special":true},{"id":260,"content":"<think>","special":false}])";
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false})";
  std::string post_processor = "null";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string model_options = "";  // further fields, each with a comma behind it
  std::string vocab = byte_vocab() + R"(,"ab":256,"abc":257,"the":258)";
  std::string merges = R"([["a","b"],["ab","c"]])";

  std::string json() const {
    return "{\"added_tokens\":" + added_tokens + ",\"normalizer\":" + normalizer +
           ",\"pre_tokenizer\":" + pre_tokenizer + ",\"post_processor\":" + post_processor +
           ",\"decoder\":" + decoder + ",\"model\":{\"type\":\"BPE\"," + model_options +
           "\"vocab\":{" + vocab + "},\"merges\":" + merges + "}}";
  }
  Tokenizer make() const { return Tokenizer(json(), "tokenizer.json"); }

  static std::string byte_vocab() {
    std::string entries;
    for (int byte = 0; byte < 256; ++byte) {
      std::string spelling = spell_byte(static_cast<uint8_t>(byte));
      if (spelling == "\"" || spelling == "\\") spelling = "\\" + spelling;
      entries += (byte == 0 ? "\"" : ",\"") + spelling + "\":" + std::to_string(byte);
    }
    return entries;
  }
};

// The message of the Error that `body` throws, "" when it throws none.
template <class Body>
std::string error_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.message();
  }
  return "";
}

}  // namespace vernier::text
