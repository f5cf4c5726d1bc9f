#include "text/split_pattern.h"

#include <gmock/gmock.h>

#include "text/oniguruma.h"
#include "text/tokenizer_test_util.h"

namespace vernier::text {
namespace {

using testing::ElementsAre;

// The stretches, those that match in brackets.
std::vector<std::string> stretches(const SplitPattern& pattern, std::string_view text) {
  std::vector<std::string> result;
  pattern.for_each_stretch(text, [&](std::string_view stretch, bool is_match) {
    result.push_back(is_match ? "[" + std::string(stretch) + "]" : std::string(stretch));
    return true;
  });
  return result;
}

TEST(SplitPattern, CoversTheTextInOrder) {
  const SplitPattern digits = SplitPattern::regex(R"(\p{N}+)");
  EXPECT_THAT(stretches(digits, "a12b3"), ElementsAre("a", "[12]", "b", "[3]"));
  EXPECT_THAT(stretches(digits, "12"), ElementsAre("[12]"));
  EXPECT_THAT(stretches(digits, "ab"), ElementsAre("ab"));
  EXPECT_THAT(stretches(digits, ""), ElementsAre());
}

TEST(SplitPattern, ALiteralHasNoSpecialCharacters) {
  EXPECT_THAT(stretches(SplitPattern::literal("a.b"), "a.baxb"), ElementsAre("[a.b]", "axb"));
}

TEST(SplitPattern, StopsWhenTheSinkHasEnough) {
  int n_calls = 0;
  EXPECT_FALSE(SplitPattern::literal("a").for_each_stretch(
      "aaa", [&](std::string_view, bool) { return ++n_calls < 2; }));
  EXPECT_EQ(n_calls, 2);
}

TEST(SplitPattern, WhiteSpaceIsThatOfUnicodeNotOfPerl) {
  const SplitPattern space = SplitPattern::regex(R"(\s)");
  EXPECT_THAT(stretches(space, "\u180E\u0085\u00A0\u3000"),
              ElementsAre("\u180E", "[\u0085]", "[\u00A0]", "[\u3000]"));
}

TEST(SplitPattern, LinesEndAtLineFeedsOnly) {
  EXPECT_THAT(stretches(SplitPattern::regex("a$"), "a\ra\na"),
              ElementsAre("a\r", "[a]", "\n", "[a]"));
}

TEST(Oniguruma, KeepsWhatBothLibrariesReadAlike) {
  for (const char* pattern :
       {R"([^\r\n\p{L}\p{N}]?\p{Lu}++|(?i:'s|'t)| ?[^a-z\]]{1,3}[\r\n/]*|\d+(?!\D)|\\|\.|\x{41}+)",
        R"((?:a)(?=b)(?>c)(?<=d)(?<!e)(f)\p{^L})"}) {
    EXPECT_EQ(oniguruma_to_pcre2(pattern), pattern);
  }
  EXPECT_EQ(oniguruma_to_pcre2(R"(\s[\s]\S\\s)"),
            R"(\p{White_Space}[\p{White_Space}]\P{White_Space}\\s)");
}

TEST(Oniguruma, RefusesWhatTheLibrariesReadDifferently) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(ab\h)", "'\\h' at byte 2"},       {R"(\p{Han})", "'\\p{Han}' at byte 0"},
      {R"(\pL)", "'\\pL' at byte 0"},       {R"(\p{L)", "'\\p{L' at byte 0"},
      {R"([a[b]])", "'[' at byte 2"},       {R"([a&&b])", "'&&' at byte 2"},
      {R"([]a])", "'[]' at byte 0"},        {R"([^]a])", "'[^]' at byte 0"},
      {R"(a{1,2}+)", "'}+' at byte 5"},     {R"(a{,2})", "'{,' at byte 1"},
      {R"((*UTF)a)", "'(*' at byte 0"},     {R"((?m:a))", "'(?m' at byte 0"},
      {R"((?<name>a))", "'(?<' at byte 0"}, {R"(\x41)", "'\\x' at byte 0"},
      {R"(a\G)", "'\\G' at byte 1"},
  };
  for (const auto& [pattern, construct] : cases) {
    EXPECT_EQ(error_of([&, p = pattern] { oniguruma_to_pcre2(p); }),
              "the pattern has " + std::string(construct) + ", which is not implemented");
  }
}

}  // namespace
}  // namespace vernier::text
