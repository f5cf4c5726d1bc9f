#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "base/testing.h"
#include "io/json.h"

namespace vernier::io {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

Json parse(std::string_view text) { return parse_yaml(text, "recipe.yaml"); }

std::string yaml_error(std::string_view text) {
  const Error error = error_of([&] { parse(text); });
  EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument) << text;
  return error.message();
}

TEST(YamlTest, KeepsStructureAndOrder) {
  const Json json = parse(
      "# a recipe\n"
      "zebra: 1\n"
      "apple:\n"
      "  - {format: nvfp4, block: 16}\n"
      "  - plain text\n"
      "empty: {}\n"
      "none:\n");
  EXPECT_EQ(
      dump_json(json),
      R"({"zebra":1,"apple":[{"format":"nvfp4","block":16},"plain text"],"empty":{},"none":null})");
}

// The tag resolution table of the YAML 1.2 core schema.
TEST(YamlTest, TypesPlainScalars) {
  const std::pair<const char*, const char*> cases[] = {
      {"~", "null"},
      {"null", "null"},
      {"Null", "null"},
      {"NULL", "null"},
      {"nULL", "\"nULL\""},
      {"true", "true"},
      {"True", "true"},
      {"FALSE", "false"},
      {"yes", "\"yes\""},
      {"off", "\"off\""},
      {"0", "0"},
      {"-12", "-12"},
      {"+7", "7"},
      {"007", "7"},
      {"0x1F", "31"},
      {"0o17", "15"},
      {"0x", "\"0x\""},
      {"0o8", "\"0o8\""},
      {"1_000", "\"1_000\""},
      {"9223372036854775807", "9223372036854775807"},
      {"18446744073709551615", "18446744073709551615"},
      {"18446744073709551616", "1.8446744073709552e+19"},
      {"-9223372036854775809", "-9.223372036854776e+18"},
      {"1.5", "1.5"},
      {"-.5", "-0.5"},
      {"+.5", "0.5"},
      {"3.", "3.0"},
      {"1e-3", "0.001"},
      {"1.E+2", "100.0"},
      {".", "\".\""},
      {"1e", "\"1e\""},
      {"+-1", "\"+-1\""},
      {"e5", "\"e5\""},
      {"1.2.3", "\"1.2.3\""},
      {".inf", "Infinity"},
      {"+.Inf", "Infinity"},
      {"-.INF", "-Infinity"},
      {".nan", "NaN"},
      {"inf", "\"inf\""},
      {"Infinity", "\"Infinity\""},
      {"nan", "\"nan\""},
      {"0x1p3", "\"0x1p3\""},
      {"backbone.layers.*", "\"backbone.layers.*\""},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(dump_json(parse(text)), expected) << text;
}

TEST(YamlTest, QuotedAndTaggedScalarsAreStrings) {
  EXPECT_EQ(parse("a: \"1\"\nb: 'true'\nc: !!str 1.5\nd: \"\"\ne: |\n  12\n"),
            parse_json(R"({"a": "1", "b": "true", "c": "1.5", "d": "", "e": "12\n"})", "t"));
}

TEST(YamlTest, KeysAreTheirText) {
  EXPECT_EQ(dump_json(parse("1: a\ntrue: b\n'~': c\n")), R"({"1":"a","true":"b","~":"c"})");
}

TEST(YamlTest, AliasesAreCopies) {
  EXPECT_EQ(dump_json(parse("a: &x {b: 1}\nc: *x\nd: [*x]\n")),
            R"({"a":{"b":1},"c":{"b":1},"d":[{"b":1}]})");
}

TEST(YamlTest, AnEmptyDocumentIsNull) {
  EXPECT_TRUE(parse("").is_null());
  EXPECT_TRUE(parse("# only a comment\n").is_null());
}

TEST(YamlTest, RejectsWithTheLine) {
  EXPECT_EQ(yaml_error("a: 1\nb: 2\na: 3\n"),
            "recipe.yaml:3: key \"a\" appears twice, first on line 1");
  EXPECT_EQ(yaml_error("x:\n  - {k: 1, k: 2}\n"),
            "recipe.yaml:2: key \"k\" appears twice, first on line 2");
  EXPECT_THAT(yaml_error("a: 1\nb: [1, 2\n"), StartsWith("recipe.yaml:3: malformed YAML: "));
  EXPECT_THAT(yaml_error("a: b: c\n"), StartsWith("recipe.yaml:1: malformed YAML: "));
  EXPECT_THAT(yaml_error("a: *nobody\n"), StartsWith("recipe.yaml:1: malformed YAML: "));
  EXPECT_EQ(yaml_error("\n? [1, 2]\n: x\n"), "recipe.yaml:2: a key is not a scalar");
  EXPECT_EQ(yaml_error("a: 1\nb: !!int 2\n"),
            "recipe.yaml:2: tag \"tag:yaml.org,2002:int\" is not supported, only !!str is");
  EXPECT_EQ(yaml_error("a: !secret {b: 1}\n"),
            "recipe.yaml:1: tag \"!secret\" is not supported, only !!str is");
  EXPECT_EQ(yaml_error("a: 1e999\n"), "recipe.yaml:1: 1e999 is out of the range of double");
  EXPECT_THAT(yaml_error("a: 1\n---\nb: 2\n"), HasSubstr("a second document begins, expected one"));
  EXPECT_EQ(yaml_error("a: 1\nb: \xff\n"), "recipe.yaml:2: not UTF-8");
}

TEST(YamlTest, RefusesWhatExpandsWithoutBound) {
  std::string bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  for (int level = 1; level < 10; ++level) {
    const std::string before = "*a" + std::to_string(level - 1);
    bomb += "a" + std::to_string(level) + ": &a" + std::to_string(level) + " [" + before;
    for (int copy = 1; copy < 10; ++copy) bomb += ", " + before;
    bomb += "]\n";
  }
  EXPECT_THAT(yaml_error(bomb), HasSubstr("aliases expand to more than 1000000 values"));
  EXPECT_THAT(yaml_error("a: &a [*a]\n"), HasSubstr("nested deeper than 256"));
}

}  // namespace
}  // namespace vernier::io
