#include "io/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/file.h"
#include "base/testing.h"

namespace vernier::io {
namespace {

using ::testing::ElementsAre;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::vector<std::string> keys_of(const Json& object) {
  std::vector<std::string> keys;
  for (const auto& member : object.items()) keys.push_back(member.key());
  return keys;
}

std::string parse_error(std::string_view text) {
  const Error error = error_of([&] { parse_json(text, "config.json"); });
  EXPECT_EQ(error.kind(), ErrorKind::kCorrupt) << text;
  return error.message();
}

TEST(JsonTest, KeepsTypesAndKeyOrder) {
  const Json json = parse_json(
      R"({"zebra": 1, "apple": -2, "mid": [1.5, true, null, "x\u00e9"], "big": 18446744073709551615,
          "empty": {}, "none": []})",
      "config.json");
  EXPECT_THAT(keys_of(json), ElementsAre("zebra", "apple", "mid", "big", "empty", "none"));
  EXPECT_TRUE(json["zebra"].is_number_unsigned());
  EXPECT_EQ(json["apple"], -2);
  EXPECT_EQ(json["mid"][0], 1.5);
  EXPECT_EQ(json["mid"][1], true);
  EXPECT_TRUE(json["mid"][2].is_null());
  EXPECT_EQ(json["mid"][3], "x\xc3\xa9");
  EXPECT_EQ(json["big"], std::numeric_limits<uint64_t>::max());
  EXPECT_TRUE(json["empty"].is_object());
  EXPECT_TRUE(json["none"].is_array());
}

TEST(JsonTest, ReadsBareNonFiniteNumbers) {
  const Json json = parse_json(R"({"limits": [0.0, Infinity], "low": -Infinity, "n": NaN})", "c");
  EXPECT_EQ(json["limits"][1], kInfinity);
  EXPECT_EQ(json["low"], -kInfinity);
  EXPECT_TRUE(std::isnan(json["n"].get<double>()));
  EXPECT_EQ(parse_json("Infinity", "c"), kInfinity);
}

TEST(JsonTest, ReadsNonFiniteNumbersSpelledAsObjects) {
  const Json json = parse_json(
      R"([{"__float__": "Infinity"}, {"__float__": "-Infinity"}, {"__float__": "NaN"}])", "c");
  EXPECT_EQ(json[0], kInfinity);
  EXPECT_EQ(json[1], -kInfinity);
  EXPECT_TRUE(std::isnan(json[2].get<double>()));
}

TEST(JsonTest, LeavesOtherFloatObjectsAlone) {
  for (const char* text : {R"({"__float__":"Infinity and more"})", R"({"__float__":1})",
                           R"({"__float__":"NaN","more":1})"}) {
    EXPECT_TRUE(parse_json(text, "c").is_object()) << text;
  }
}

TEST(JsonTest, StringsKeepTheWords) {
  const Json json = parse_json(R"({"Infinity": "NaN \" -Infinity \\", "x": NaN})", "c");
  EXPECT_EQ(json["Infinity"], "NaN \" -Infinity \\");
  EXPECT_TRUE(json["x"].is_number_float());
}

TEST(JsonTest, MalformedTextIsNamedWithLineAndColumn) {
  struct Case {
    std::string_view text;
    std::string_view message;  // a prefix
  };
  const Case cases[] = {
      {"",
       "config.json:1:1: malformed JSON: syntax error while parsing value - unexpected end of "
       "input"},
      {"{\n  \"a\": 1,\n  \"b\": }\n",
       "config.json:3:8: malformed JSON: syntax error while parsing"},
      {"[1, 2", "config.json:1:6: malformed JSON: syntax error while parsing array"},
      {"{\"a\" 1}", "config.json:1:6: malformed JSON: syntax error while parsing object separator"},
      {"[1] x", "config.json:1:5: malformed JSON: syntax error while parsing value"},
      {"[1,]", "config.json:1:4: malformed JSON: "},
      {"[\"a\tb\"]", "config.json:1:4: malformed JSON: syntax error while parsing value - invalid"},
      {"[1e999]", "config.json:1:6: malformed JSON: number overflow parsing '1e999'"},
      {"[\"\xff\"]",
       "config.json:1:3: malformed JSON: syntax error while parsing value - invalid string"},
      {"[// no\n1]", "config.json:1:2: malformed JSON: "},
      {"{1: 2}", "config.json:1:2: malformed JSON: syntax error while parsing object key"},
      // After a bare number the place is still that of the original text.
      {"[Infinity, NaN, }", "config.json:1:17: malformed JSON: "},
      {"{NaN: 1}", "config.json:1:2: malformed JSON: "},
      {"[NaN NaN]", "config.json:1:6: malformed JSON: "},
      {"[+Infinity]", "config.json:1:2: malformed JSON: "},
      {"[-NaN]", "config.json:1:3: malformed JSON: "},
      {"[NaNo]", "config.json:1:5: malformed JSON: "},
      {"[\"NaN", "config.json:1:6: malformed JSON: "},
      {"[NaN, \"\\", "config.json:1:9: malformed JSON: "},
  };
  for (const Case& test : cases) {
    EXPECT_THAT(parse_error(test.text), testing::StartsWith(std::string(test.message)))
        << test.text;
  }
}

TEST(JsonTest, DuplicateKeysAreNamed) {
  EXPECT_EQ(parse_error(R"({"a": 1, "b": {"x": 1, "y": 2, "x": 1}})"),
            "config.json: malformed JSON: key \"x\" appears twice in one object");
  EXPECT_EQ(parse_json(R"([{"a": 1}, {"a": 2}])", "c").size(), 2u);
}

TEST(JsonTest, DeepNestingIsRefused) {
  EXPECT_EQ(parse_error(std::string(300, '[')),
            "config.json: malformed JSON: nested deeper than 256");
  const std::string deepest = std::string(256, '[') + std::string(256, ']');
  EXPECT_EQ(dump_json(parse_json(deepest, "c")), deepest);
}

TEST(JsonTest, ReadsFiles) {
  const TemporaryDirectory directory;
  write_file(directory / "a.json", "{\"a\": NaN}\n");
  EXPECT_TRUE(read_json(directory / "a.json")["a"].is_number_float());
  write_file(directory / "b.json", "{");
  EXPECT_THAT(error_of([&] { read_json(directory / "b.json"); }).message(),
              testing::StartsWith((directory / "b.json").string() + ":1:2: malformed JSON"));
  EXPECT_EQ(error_of([&] { read_json(directory / "c.json"); }).kind(), ErrorKind::kNotFound);
}

TEST(JsonTest, DumpsWithoutWhiteSpace) {
  const Json json =
      parse_json(R"({"b": [1, -2, 0.1, 1.0], "a": {}, "s": "\u00e9\n\"", "n": null})", "c");
  EXPECT_EQ(dump_json(json), R"({"b":[1,-2,0.1,1.0],"a":{},"s":"\u00e9\n\"","n":null})");
}

// As CPython 3.11 prints the same value with json.dumps(indent=4).
TEST(JsonTest, DumpsIndentedAsPythonDoes) {
  const Json json = parse_json(
      R"({"a": [], "b": {}, "c": [1, [2.0, true]], "d": {"e": null, "f": "\u007f\ud83d\ude00/"}})",
      "c");
  EXPECT_EQ(dump_json(json, 4),
            R"({
    "a": [],
    "b": {},
    "c": [
        1,
        [
            2.0,
            true
        ]
    ],
    "d": {
        "e": null,
        "f": "\u007f\ud83d\ude00/"
    }
})");
}

// Python's repr of each double.
TEST(JsonTest, DumpsNumbersAsPythonDoes) {
  const std::pair<double, const char*> cases[] = {
      {0.0, "0.0"},
      {-0.0, "-0.0"},
      {1e-05, "1e-05"},
      {0.0001, "0.0001"},
      {0.1, "0.1"},
      {100.0, "100.0"},
      {1e15, "1000000000000000.0"},
      {1e16, "1e+16"},
      {1.5e300, "1.5e+300"},
      {5e-324, "5e-324"},
      {1.0 / 3.0, "0.3333333333333333"},
      {0.009765625, "0.009765625"},
      {kInfinity, "Infinity"},
      {-kInfinity, "-Infinity"},
      {std::numeric_limits<double>::quiet_NaN(), "NaN"},
  };
  for (const auto& [value, text] : cases) EXPECT_EQ(dump_json(Json(value)), text);
}

TEST(JsonTest, LargeObjectsTakeLinearTime) {
  // Quadratic insertion of this many keys would take many seconds.
  constexpr int kKeys = 100'000;
  std::string text = "{";
  for (int index = 0; index < kKeys; ++index) {
    if (index > 0) text += ',';
    text += "\"model.layers." + std::to_string(index) + "\":" + std::to_string(index);
  }
  text += '}';
  EXPECT_EQ(dump_json(parse_json(text, "c")), text);
}

}  // namespace
}  // namespace vernier::io
