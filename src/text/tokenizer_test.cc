#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "base/error.h"
#include "text/tokenizer_test_util.h"
#include "text/utf8.h"

namespace vernier::text {
namespace {

using Ids = std::vector<TokenId>;

const Tokenizer& tiny_tokenizer() {
  static const Tokenizer tokenizer(std::filesystem::path(VERNIER_SOURCE_DIR) /
                                   "models/tiny/tokenizer.json");
  return tokenizer;
}

// Characters where tokenizers go wrong, mixed with any character of any plane.
std::string arbitrary_text() {
  const auto any_plane = rc::gen::suchThat(rc::gen::inRange<uint32_t>(0, 0x110000),
                                           [](uint32_t c) { return c < 0xD800 || c > 0xDFFF; });
  const auto delicate = rc::gen::element<uint32_t>(
      0, ' ', '\n', '\r', '\t', 'a', 'Z', '7', '\'', 's', '<', '>', 0x85, 0xA0, 0x301, 0x308,
      0x180E, 0x200D, 0x3000, 0xFE0F, 0xFEFF, 0x1F469, 0x1F3FD);
  const auto character = rc::gen::oneOf(delicate, any_plane, rc::gen::inRange<uint32_t>(1, 0x80));
  std::string text;
  for (uint32_t code_point : *rc::gen::container<std::vector<uint32_t>>(character)) {
    append_utf8(code_point, text);
  }
  return text;
}

RC_GTEST_PROP(Tokenizer, DecodesWhatItEncoded, ()) {
  const std::string text = arbitrary_text();
  RC_ASSERT(tiny_tokenizer().decode(tiny_tokenizer().encode(text)) == text);
}

RC_GTEST_PROP(Tokenizer, PrefixIsTheStartOfTheWhole, ()) {
  const std::string text = arbitrary_text();
  Ids ids = tiny_tokenizer().encode(text);
  const size_t n_tokens = *rc::gen::inRange<size_t>(0, ids.size() + 3);
  const Ids prefix = tiny_tokenizer().encode_prefix(text, n_tokens);
  ids.resize(std::min(n_tokens, ids.size()));
  RC_ASSERT(prefix == ids);
}

RC_GTEST_PROP(StreamDecoder, GivesTheWholeTextInCharacters, ()) {
  const std::string text = arbitrary_text();
  StreamDecoder decoder(tiny_tokenizer());
  std::string streamed;
  for (TokenId id : tiny_tokenizer().encode(text)) {
    const std::string part = decoder.push(id);
    RC_ASSERT(part.empty() || first_character(part).state == Utf8Character::State::kComplete);
    streamed += part;
  }
  RC_ASSERT(streamed + decoder.finish() == text);
}

TEST(StreamDecoder, ReplacesBytesThatAreNoCharacter) {
  const Tokenizer tokenizer = TokenizerJson().make();
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(0xE2), "");
  EXPECT_EQ(decoder.push(0x82), "");
  EXPECT_EQ(decoder.push('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(decoder.push(0x80), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, SkipsSpecialTokensOnRequest) {
  const Tokenizer tokenizer = TokenizerJson().make();
  EXPECT_EQ(StreamDecoder(tokenizer).push(259), "");
  EXPECT_EQ(StreamDecoder(tokenizer, false).push(259), "<s>");
  EXPECT_EQ(StreamDecoder(tokenizer).push(260), "<think>");
}

TEST(Tokenizer, JoinsThePairOfLowestRankFirst) {
  const Tokenizer tokenizer = TokenizerJson().make();
  EXPECT_EQ(tokenizer.encode("abcab"), (Ids{257, 256}));
  TokenizerJson other;
  other.vocab += R"(,"bc":300)";
  other.merges = R"([["b","c"],["a","b"],["ab","c"]])";
  EXPECT_EQ(other.make().encode("abc"), (Ids{'a', 300}));
}

TEST(Tokenizer, TakesAWholePieceWhenMergesAreIgnored) {
  TokenizerJson file;
  EXPECT_EQ(file.make().encode("the"), (Ids{'t', 'h', 'e'}));
  file.model_options = R"("ignore_merges":true,)";
  EXPECT_EQ(file.make().encode("the"), (Ids{258}));
}

TEST(Tokenizer, DecodeSkipsSpecialTokensOnly) {
  const Tokenizer tokenizer = TokenizerJson().make();
  const Ids ids = tokenizer.encode("<s>x<think>");
  EXPECT_EQ(ids, (Ids{259, 'x', 260}));
  EXPECT_EQ(tokenizer.decode(ids), "<s>x<think>");
  EXPECT_EQ(tokenizer.decode(ids, true), "x<think>");
}

TEST(Tokenizer, PostProcessorsWrapTheText) {
  const std::string bos = R"({"type":"TemplateProcessing",
    "single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
    "special_tokens":{"<s>":{"id":"<s>","ids":[259],"tokens":["<s>"]}}})";
  TokenizerJson file;
  file.post_processor = bos;
  EXPECT_EQ(file.make().encode("x", true), (Ids{259, 'x'}));
  EXPECT_EQ(file.make().encode("x"), (Ids{'x'}));
  file.post_processor =
      R"({"type":"Sequence","processors":[{"type":"ByteLevel"},)" + bos + "," + bos + "]}";
  EXPECT_EQ(file.make().encode("", true), (Ids{259, 259}));
}

TEST(Tokenizer, FindsTokensByTheirBytes) {
  const Tokenizer tokenizer = TokenizerJson().make();
  EXPECT_EQ(tokenizer.id_of("<s>"), 259);
  EXPECT_EQ(tokenizer.id_of("abc"), 257);
  EXPECT_EQ(tokenizer.id_of(" "), ' ');
  EXPECT_EQ(tokenizer.id_of("none"), -1);
  EXPECT_EQ(tokenizer.vocab_size(), 261);
  EXPECT_EQ(tiny_tokenizer().vocab_size(), 4096);
}

TEST(Tokenizer, RefusesInvalidUtf8WithItsPlace) {
  EXPECT_EQ(error_of([] { tiny_tokenizer().encode("ab\xFFz"); }),
            "the text to encode is not valid UTF-8 at byte 2");
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  TokenizerJson file;
  file.added_tokens = R"([{"id":300,"content":"<s>"}])";
  const Tokenizer tokenizer = file.make();
  for (TokenId id : {-1, 299, 301}) {  // 299 lies in a gap
    EXPECT_EQ(error_of([&] { tokenizer.decode({id}); }),
              "tokenizer.json: has no token with the id " + std::to_string(id));
  }
}

// Long runs are one piece of a million symbols, or make the pattern look far ahead: quadratic work
// would take hours.
TEST(Tokenizer, LongRunsTakeNoQuadraticTime) {
  constexpr size_t kBytes = 1 << 20;
  for (const std::string unit : {"a", "A", " ", "\n", " \n", "ab", "1", "\xCC\x81", "'s", "<"}) {
    std::string text;
    while (text.size() < kBytes) text += unit;
    EXPECT_EQ(tiny_tokenizer().decode(tiny_tokenizer().encode(text)), text) << unit;
    text += "x";
    EXPECT_EQ(tiny_tokenizer().decode(tiny_tokenizer().encode(text)), text) << unit;
  }
}

TEST(Tokenizer, AMatchBeyondTheLimitsIsAnErrorNotACrash) {
  TokenizerJson file;
  file.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[
    {"type":"Split","pattern":{"Regex":"(?:a|aa|b)+[cd]"},"behavior":"Isolated"},
    {"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})";
  EXPECT_EQ(error_of([&] { file.make().encode(std::string(200, 'a')); }),
            "tokenizer.json: the split pattern cannot be matched at byte 0 of the text: "
            "match limit exceeded");
}

}  // namespace
}  // namespace vernier::text
