#include "search/gemm_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/testing.h"

namespace vernier::search {
namespace {

using ::testing::HasSubstr;

const Candidate& nvfp4() { return find_candidate("nvfp4"); }

// BF16 and NVFP4 times of a plain linear, and BF16 times of an expert of the same shape.
GemmTable small_table() {
  return {.device = "a device",
          .prefill_tokens = 1000,
          .decode_tokens = 1,
          .rows = {{"bf16", "none", 64, 32, false, 1000, 1, 8, 0.5},
                   {"nvfp4", "nvfp4", 64, 32, false, 1000, 1, 2, 0.125},
                   {"bf16", "none", 64, 32, true, 250, 1, 3, 0.25}}};
}

ScoredGroup group_of(const std::vector<LinearShape>& shapes, bool is_routed = false) {
  return {.name = "a group", .is_routed = is_routed, .shapes = shapes};
}

TEST(GemmTable, NamesFormats) {
  EXPECT_EQ(weight_format_name(nullptr), "bf16");
  EXPECT_EQ(input_format_name(nullptr), "none");
  EXPECT_EQ(weight_format_name(&find_candidate("bf16")), "bf16");
  EXPECT_EQ(weight_format_name(&find_candidate("fp8")), "fp8_e4m3");
  EXPECT_EQ(input_format_name(&find_candidate("fp8")), "fp8_e4m3");
  EXPECT_EQ(weight_format_name(&find_candidate("nvfp4_sweep")), "nvfp4");
  EXPECT_EQ(weight_format_name(&find_candidate("w4a16_nvfp4")), "nvfp4");
  EXPECT_EQ(input_format_name(&find_candidate("w4a16_nvfp4")), "none");
}

TEST(GemmTable, CountsModules) {
  const ScoredGroup group = group_of({{64, 32, 3, 1}});
  const GemmTable table = small_table();
  EXPECT_EQ(table.seconds(group, nullptr, ServingPhase::kPrefill), 24);
  EXPECT_EQ(table.seconds(group, nullptr, ServingPhase::kDecode), 1.5);
  EXPECT_EQ(table.seconds(group, &nvfp4(), ServingPhase::kPrefill), 6);
  EXPECT_EQ(table.seconds(group, &nvfp4(), ServingPhase::kDecode), 0.375);
}

TEST(GemmTable, AddsShapes) {
  GemmTable table = small_table();
  table.rows.push_back({"bf16", "none", 16, 64, false, 1000, 1, 1, 0.0625});
  const ScoredGroup group = group_of({{64, 32, 1, 1}, {16, 64, 2, 1}});
  EXPECT_EQ(table.seconds(group, nullptr, ServingPhase::kPrefill), 10);
  EXPECT_EQ(table.seconds(group, nullptr, ServingPhase::kDecode), 0.625);
}

// Eight experts of which a token visits a quarter: in a prefill step all see tokens, one decoded
// token visits two.
TEST(GemmTable, CountsExpertsThatSeeTokens) {
  const ScoredGroup group = group_of({{64, 32, 8, 0.25}}, true);
  GemmTable table = small_table();
  EXPECT_DOUBLE_EQ(table.seconds(group, nullptr, ServingPhase::kPrefill), 24);
  EXPECT_DOUBLE_EQ(table.seconds(group, nullptr, ServingPhase::kDecode), 0.5);
  // Two tokens miss an expert with probability 9/16.
  table.decode_tokens = 2;
  EXPECT_DOUBLE_EQ(table.seconds(group, nullptr, ServingPhase::kDecode), 8 * 0.25 * 7 / 16);
}

TEST(GemmTable, TrafficSpreadsTokens) {
  const auto expect = [](double share, int64_t tokens, double visited, int64_t each) {
    const Traffic traffic = traffic_of(share, tokens);
    EXPECT_DOUBLE_EQ(traffic.visited_share, visited) << share << ", " << tokens;
    EXPECT_EQ(traffic.tokens, each) << share << ", " << tokens;
  };
  expect(1, 1, 1, 1);
  expect(1, 4096, 1, 4096);
  expect(0.25, 1, 0.25, 1);
  expect(0.25, 2, 0.4375, 1);
  expect(6.0 / 128, 4096, 1, 192);
  // 22 of 512 experts: 32 tokens visit 3 of 4, each of which sees 1.8.
  const Traffic traffic = traffic_of(22.0 / 512, 32);
  EXPECT_NEAR(traffic.visited_share, 0.755, 0.001);
  EXPECT_EQ(traffic.tokens, 2);
}

TEST(GemmTable, SaysWhichRowIsMissing) {
  const GemmTable table = small_table();
  const auto message = [&](const ScoredGroup& group, const Candidate* candidate) {
    const Error error = error_of([&] { table.seconds(group, candidate, ServingPhase::kPrefill); });
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    return error.message();
  };
  const ScoredGroup plain = group_of({{64, 32, 1, 1}});
  EXPECT_EQ(message(plain, &find_candidate("fp8")),
            "the table of products has no row for fp8_e4m3 weights of 64 x 32 with fp8_e4m3 "
            "inputs; make one for this model with vernier bench --gemm-table");
  EXPECT_THAT(message(plain, &find_candidate("w4a16_nvfp4")),
              HasSubstr("nvfp4 weights of 64 x 32 with none inputs"));
  EXPECT_THAT(message(group_of({{32, 64, 1, 1}}), nullptr), HasSubstr("32 x 64"));
  EXPECT_THAT(message(group_of({{64, 32, 8, 0.25}}, true), &nvfp4()),
              HasSubstr("64 x 32 of routed experts"));
}

TEST(GemmTable, ComesBackFromItsFile) {
  const TemporaryDirectory scratch;
  const GemmTable table = small_table();
  write_gemm_table(table, scratch / "table.json");
  const GemmTable read = read_gemm_table(scratch / "table.json");
  EXPECT_EQ(read.device, table.device);
  EXPECT_EQ(read.prefill_tokens, table.prefill_tokens);
  EXPECT_EQ(read.decode_tokens, table.decode_tokens);
  ASSERT_EQ(read.rows.size(), table.rows.size());
  for (size_t index = 0; index < table.rows.size(); ++index) {
    const GemmRow& row = read.rows[index];
    const GemmRow& expected = table.rows[index];
    EXPECT_EQ(row.weight_format, expected.weight_format);
    EXPECT_EQ(row.input_format, expected.input_format);
    EXPECT_EQ(row.n, expected.n);
    EXPECT_EQ(row.k, expected.k);
    EXPECT_EQ(row.is_routed, expected.is_routed);
    EXPECT_EQ(row.prefill_tokens, expected.prefill_tokens);
    EXPECT_EQ(row.decode_tokens, expected.decode_tokens);
    EXPECT_EQ(row.prefill_seconds, expected.prefill_seconds);
    EXPECT_EQ(row.decode_seconds, expected.decode_seconds);
  }
}

TEST(GemmTable, RefusesOtherFiles) {
  const TemporaryDirectory scratch;
  const std::filesystem::path path = scratch / "table.json";
  write_gemm_table(small_table(), path);
  const std::string good = read_file(path);

  const auto expect_corrupt = [&](const std::string& text, const std::string& sentence) {
    write_file(path, text);
    const Error error = error_of([&] { read_gemm_table(path); });
    EXPECT_EQ(error.kind(), ErrorKind::kCorrupt) << text;
    EXPECT_THAT(error.message(), HasSubstr(path.string()));
    EXPECT_THAT(error.message(), HasSubstr(sentence));
  };
  const auto edited = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  expect_corrupt("[]", "no table of products of this version");
  expect_corrupt("{}", "no table of products of this version");
  expect_corrupt(edited("\"version\": 1", "\"version\": 2"), "of this version (\"version\": 1)");
  expect_corrupt(edited("\"version\": 1", "\"version\": \"one\""), "of this version");
  expect_corrupt(edited("\"rows\"", "\"lines\""), "not a table of products");
  expect_corrupt(edited("\"n\": 64", "\"n\": \"64\""), "not a table of products");
  expect_corrupt(edited("\"routed\"", "\"rooted\""), "not a table of products");
  expect_corrupt(edited("\"prefill_seconds\": 8.0", "\"prefill_seconds\": 0.0"),
                 "bf16 weights of 64 x 32 take 0 and 0.5 s, expected times above 0");
  expect_corrupt(edited("\"decode_tokens\": 1", "\"decode_tokens\": 0"),
                 "steps of 1000 and 0 tokens, expected at least 1");

  EXPECT_EQ(error_of([&] { read_gemm_table(scratch / "none.json"); }).kind(), ErrorKind::kNotFound);
}

}  // namespace
}  // namespace vernier::search
