// tokenizer.json of the byte-level BPE kind: added tokens, split regex, byte alphabet, merges,
// post-processor. Fields this reader does not implement are errors, never ignored.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/token_id.h"

namespace vernier::text {

// Thread-safe after construction.
class Tokenizer {
 public:
  // Throws NotFound, Corrupt (malformed), Unsupported (another kind of tokenizer), naming the file
  // and the field.
  explicit Tokenizer(const std::filesystem::path& path);
  // The same from the file's text; `name` stands for the path in messages.
  Tokenizer(std::string_view json, std::string_view name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  // Token ids of UTF-8 text. `add_special` applies the post-processor (BOS and the like).
  // Throws InvalidArgument on invalid UTF-8, with the byte offset.
  std::vector<TokenId> encode(std::string_view text, bool add_special = false) const;

  // The first `max_tokens` ids of encode(text), without special tokens; reads no more of the text
  // than they need, except to look for invalid UTF-8.
  std::vector<TokenId> encode_prefix(std::string_view text, size_t max_tokens) const;

  // The bytes of the ids, which need not be UTF-8; special tokens are skipped when asked. An added
  // token stands for its content. Ids outside the vocabulary throw InvalidArgument.
  std::string decode(const std::vector<TokenId>& ids, bool skip_special = false) const;

  // The id of the token that stands for these bytes (" the", "<s>"), added tokens first; -1 when
  // there is none.
  TokenId id_of(std::string_view token) const;
  int64_t vocab_size() const;  // one more than the largest id

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

// Decodes one token at a time for a terminal: holds bytes back until they complete a UTF-8
// character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true);
  std::string push(TokenId id);
  // What is held back at the end, invalid bytes replaced by U+FFFD.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace vernier::text
