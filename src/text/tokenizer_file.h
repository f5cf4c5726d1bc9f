// tokenizer.json as plain data: everything in it that decides ids and text, and nothing it says
// that this program would have to ignore.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"

namespace vernier::text {

struct TokenizerFile {
  std::vector<AddedToken> added_tokens;
  std::vector<SplitStep> splits;
  BpeModel model;
  std::vector<TokenId> prefix;  // what the post-processor puts around a text
  std::vector<TokenId> suffix;
  // By id: the bytes a token stands for. An id that the file leaves out has none, which no token
  // has.
  std::vector<std::string> bytes_of_token;
};

// Throws Corrupt where the file contradicts itself or the format, Unsupported for what is not
// implemented; both name `file_name` and the field.
TokenizerFile parse_tokenizer_file(std::string_view json, std::string_view file_name);

}  // namespace vernier::text
