// What a broken tokenizer.json, or one of another kind, is told.
#include "text/tokenizer_file.h"

#include <gtest/gtest.h>

#include <functional>

#include "text/tokenizer_test_util.h"

namespace vernier::text {
namespace {

struct BadFile {
  std::string message;  // behind the file's name
  std::function<void(TokenizerJson&)> spoil;
};

std::string split_with(const std::string& split) {
  return R"({"type":"Sequence","pretokenizers":[{"type":"Split",)" + split +
         R"(},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})";
}

std::string template_with(const std::string& single) {
  return R"({"type":"TemplateProcessing","single":[)" + single +
         R"(],"special_tokens":{"<s>":{"ids":[259]},"<x>":{"ids":[999]}}})";
}

const std::vector<BadFile>& bad_files() {
  static const std::vector<BadFile> files = {
      {"normalizer: is set; only null is implemented",
       [](auto& file) { file.normalizer = R"({"type":"NFC"})"; }},
      {"decoder.type: is 'WordPiece'; only ByteLevel is implemented",
       [](auto& file) { file.decoder = R"({"type":"WordPiece"})"; }},
      {"decoder: is missing, expected an object", [](auto& file) { file.decoder = "null"; }},

      {"pre_tokenizer.type: is 'Metaspace'; expected Split or Digits steps and then one ByteLevel",
       [](auto& file) { file.pre_tokenizer = R"({"type":"Metaspace"})"; }},
      {"pre_tokenizer: has no ByteLevel step; only byte-level tokenizers are implemented",
       [](auto& file) { file.pre_tokenizer = R"({"type":"Digits"})"; }},
      {"pre_tokenizer.add_prefix_space: is true, which changes the text; expected false",
       [](auto& file) { file.pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":true})"; }},
      {"pre_tokenizer.pretokenizers[0].behavior: is 'Other'; expected Isolated, Removed, "
       "MergedWithPrevious, MergedWithNext or Contiguous",
       [](auto& file) {
         file.pre_tokenizer = split_with(R"("pattern":{"Regex":"a"},"behavior":"Other")");
       }},
      {"pre_tokenizer.pretokenizers[0].pattern.Regex: the pattern has '\\w' at byte 1, which is "
       "not "
       "implemented",
       [](auto& file) {
         file.pre_tokenizer = split_with(R"("pattern":{"Regex":"a\\w"},"behavior":"Isolated")");
       }},
      {"pre_tokenizer.pretokenizers[0].pattern.Regex: the pattern 'a(' does not compile, at byte "
       "2: "
       "missing closing parenthesis",
       [](auto& file) {
         file.pre_tokenizer = split_with(R"("pattern":{"Regex":"a("},"behavior":"Isolated")");
       }},
      {"pre_tokenizer.pretokenizers[0].pattern.Regex: the pattern 'a*' matches the empty text",
       [](auto& file) {
         file.pre_tokenizer = split_with(R"("pattern":{"Regex":"a*"},"behavior":"Isolated")");
       }},
      {"pre_tokenizer.pretokenizers[0].pattern.String: the string to split at is empty",
       [](auto& file) {
         file.pre_tokenizer = split_with(R"("pattern":{"String":""},"behavior":"Isolated")");
       }},
      {"pre_tokenizer.pretokenizers[0].pattern.String: is missing, expected a string",
       [](auto& file) {
         file.pre_tokenizer = split_with(R"("pattern":{},"behavior":"Isolated")");
       }},
      {"pre_tokenizer.pretokenizers[0].invert: is of type number, expected true or false",
       [](auto& file) {
         file.pre_tokenizer =
             split_with(R"("pattern":{"Regex":"a"},"behavior":"Isolated","invert":1)");
       }},

      {"model.dropout: is set, expected null",
       [](auto& file) { file.model_options = R"("dropout":0.1,)"; }},
      {"model.continuing_subword_prefix: is '##'; only tokens without affixes are implemented",
       [](auto& file) { file.model_options = R"("continuing_subword_prefix":"##",)"; }},
      {"model: has the field 'scores', which is not implemented",
       [](auto& file) { file.model_options = R"("scores":[],)"; }},
      {"model.vocab: has no token for the byte 0x00, spelled '\u0100'",
       [](auto& file) { file.vocab = R"("a":0,"b":1)"; }},
      {"model.vocab: gives the id 97 to two tokens, one of them 'zz'",
       [](auto& file) { file.vocab += R"(,"zz":97)"; }},
      {"model.vocab.zz: is -1, expected a token id from 0 to 16777215",
       [](auto& file) { file.vocab += R"(,"zz":-1)"; }},
      {"model.vocab.zz: is string, expected a token id from 0 to 16777215",
       [](auto& file) { file.vocab += R"(,"zz":"7")"; }},
      {"model.vocab: has an empty token", [](auto& file) { file.vocab += R"(,"":400)"; }},
      {"model.merges[1]: names the token 'xyz', which model.vocab does not have",
       [](auto& file) { file.merges = R"([["a","b"],["xyz","c"]])"; }},
      {"model.merges[0]: names the token 'ba', which model.vocab does not have",
       [](auto& file) { file.merges = R"(["b a"])"; }},
      {"model.merges[0]: expected a pair of tokens, [\"a\", \"b\"] or \"a b\"",
       [](auto& file) { file.merges = R"([["a","b","c"]])"; }},
      {"model.merges[1]: expected a pair of tokens, [\"a\", \"b\"] or \"a b\"",
       [](auto& file) { file.merges = R"(["a b","ab"])"; }},
      {"model.merges: is missing, expected an array", [](auto& file) { file.merges = "null"; }},

      {"added_tokens[0].single_word: is true; only false is implemented",
       [](auto& file) { file.added_tokens = R"([{"id":300,"content":"x","single_word":true}])"; }},
      {"added_tokens[0].content: is empty",
       [](auto& file) { file.added_tokens = R"([{"id":300,"content":""}])"; }},
      {"added_tokens[0]: gives 'ab' the id 300, model.vocab gives it 256",
       [](auto& file) { file.added_tokens = R"([{"id":300,"content":"ab"}])"; }},
      {"added_tokens[0]: gives '<s>' the id 256, which another token has",
       [](auto& file) { file.added_tokens = R"([{"id":256,"content":"<s>"}])"; }},
      {"added_tokens: is of type string, expected an array",
       [](auto& file) { file.added_tokens = R"("<s>")"; }},

      {"post_processor.type: is 'BertProcessing'; expected TemplateProcessing, ByteLevel or a "
       "Sequence of them",
       [](auto& file) { file.post_processor = R"({"type":"BertProcessing"})"; }},
      {"post_processor.single: expected the text, Sequence A, exactly once",
       [](auto& file) { file.post_processor = template_with(R"({"SpecialToken":{"id":"<s>"}})"); }},
      {"post_processor.single[0]: names another text than A",
       [](auto& file) { file.post_processor = template_with(R"({"Sequence":{"id":"B"}})"); }},
      {"post_processor: adds the token 999, which the vocabulary does not have",
       [](auto& file) {
         file.post_processor =
             template_with(R"({"Sequence":{"id":"A"}},{"SpecialToken":{"id":"<x>"}})");
       }},
      {"post_processor.special_tokens.<y>: is missing, expected an object",
       [](auto& file) { file.post_processor = template_with(R"({"SpecialToken":{"id":"<y>"}})"); }},
  };
  return files;
}

TEST(TokenizerFile, NamesFileAndFieldOfWhatIsWrong) {
  for (const BadFile& bad : bad_files()) {
    TokenizerJson file;
    bad.spoil(file);
    EXPECT_EQ(error_of([&] { file.make(); }), "tokenizer.json: " + bad.message);
  }
}

TEST(TokenizerFile, RefusesWhatIsNoJsonOrNoTokenizer) {
  const std::string whole = TokenizerJson().json();
  const auto message = [](const std::string& json) {
    return error_of([&] { Tokenizer(json, "t.json"); });
  };
  EXPECT_EQ(message(whole.substr(0, 100)), "t.json: is not valid JSON, at byte 101 of 100");
  EXPECT_EQ(message(""), "t.json: is not valid JSON, at byte 1 of 0");
  EXPECT_EQ(message("[]"), "t.json: is of type array, expected an object");
  EXPECT_EQ(message("{}"), "t.json: decoder: is missing, expected an object");
  EXPECT_EQ(message(R"({"truncation":{}})"),
            "t.json: truncation: is set; only null is implemented");
  EXPECT_EQ(message(R"({"more":1})"), "t.json: has the field 'more', which is not implemented");
  EXPECT_EQ(error_of([] { Tokenizer(std::filesystem::path("/no/tokenizer.json")); }),
            "/no/tokenizer.json: no such file");
}

TEST(TokenizerFile, AcceptsOptionsThatCannotMatterWhenEveryByteHasAToken) {
  TokenizerJson file;
  file.model_options = R"("unk_token":"<unk>","fuse_unk":true,"byte_fallback":true,"dropout":0.0,
    "continuing_subword_prefix":"","end_of_word_suffix":"",)";
  EXPECT_EQ(file.make().encode("abc"), (std::vector<TokenId>{257}));
}

// Every cut of a valid file is refused, none crashes.
TEST(TokenizerFile, RefusesEveryTruncation) {
  const std::string whole = TokenizerJson().json();
  for (size_t n_bytes = 0; n_bytes < whole.size(); n_bytes += 13) {
    EXPECT_NE(error_of([&] { Tokenizer(whole.substr(0, n_bytes), "t.json"); }), "");
  }
}

}  // namespace
}  // namespace vernier::text
