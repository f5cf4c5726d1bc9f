#include "io/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "base/file.h"
#include "base/testing.h"

namespace vernier::io {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;
using ::testing::StartsWith;

std::string little_endian(uint64_t value) {
  std::string bytes;
  for (int shift = 0; shift < 64; shift += 8) bytes += static_cast<char>(value >> shift & 0xFF);
  return bytes;
}

// A file with this header and so many bytes of data.
std::string file_with(std::string_view header, size_t n_data_bytes = 0) {
  return little_endian(header.size()) + std::string(header) + std::string(n_data_bytes, '\7');
}

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors_header(std::as_bytes(std::span(file)), static_cast<int64_t>(file.size()),
                                  "m.safetensors");
}

std::string rejection(const std::string& file) {
  const Error error = error_of([&] { parse(file); });
  EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
  return error.message();
}

TEST(SafetensorsTest, ReadsTheLayout) {
  const SafetensorsHeader header = parse(
      file_with(R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
                R"("__metadata__":{"format":"pt","by":"hand"},)"
                R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                R"("e":{"data_offsets":[16,16],"shape":[0,9],"dtype":"U8","note":"ignored"}} )",
                16));
  ASSERT_EQ(header.entries.size(), 3u);
  EXPECT_EQ(header.entries[0].name, "a");
  EXPECT_EQ(header.entries[0].dtype, DType::kF32);
  EXPECT_EQ(header.entries[0].shape, Shape{});
  EXPECT_EQ(header.entries[1].name, "b");
  EXPECT_EQ(header.entries[1].shape, (Shape{2, 3}));
  EXPECT_EQ(header.entries[1].begin, 4);
  EXPECT_EQ(header.entries[1].end, 16);
  EXPECT_EQ(header.entries[2].name, "e");
  EXPECT_THAT(header.metadata, ElementsAre(Pair("by", "hand"), Pair("format", "pt")));
}

TEST(SafetensorsTest, AFileWithoutTensorsIsFine) {
  EXPECT_TRUE(parse(file_with("{}")).entries.empty());
  EXPECT_EQ(parse(file_with("{}      ")).data_start, 16);
}

TEST(SafetensorsTest, EveryDtypeOfTheFormat) {
  const std::pair<const char*, int> bytes_of_eight[] = {
      {"BOOL", 8}, {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
      {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
  };
  for (const auto& [dtype, size] : bytes_of_eight) {
    const std::string header = std::string(R"({"t":{"dtype":")") + dtype +
                               R"(","shape":[2,4],"data_offsets":[0,)" + std::to_string(size) +
                               "]}}";
    const SafetensorsHeader parsed = parse(file_with(header, static_cast<size_t>(size)));
    EXPECT_EQ(dtype_info(parsed.entries.at(0).dtype).name, dtype);
  }
}

TEST(SafetensorsTest, OnlyTheHeaderNeedsToBeThere) {
  const std::string file =
      file_with(R"({"t":{"dtype":"U8","shape":[1000000000000],"data_offsets":[0,1000000000000]}})");
  const auto n_bytes = static_cast<int64_t>(file.size()) + 1'000'000'000'000;
  const SafetensorsHeader header =
      parse_safetensors_header(std::as_bytes(std::span(file)), n_bytes, "m.safetensors");
  EXPECT_EQ(header.entries[0].end, 1'000'000'000'000);
}

TEST(SafetensorsTest, RejectsABadLength) {
  EXPECT_EQ(rejection(""),
            "m.safetensors: is 0 bytes long, expected at least the 8 of the header length");
  EXPECT_EQ(rejection("1234567"),
            "m.safetensors: is 7 bytes long, expected at least the 8 of the header length");
  EXPECT_EQ(
      rejection(little_endian(2'147'483'648) + "{}"),
      "m.safetensors: says that its header is 2147483648 bytes long, safetensors allows 100000000");
  EXPECT_EQ(rejection(little_endian(~uint64_t{0}) + "{}"),
            "m.safetensors: says that its header is 18446744073709551615 bytes long, safetensors "
            "allows 100000000");
  EXPECT_EQ(rejection(little_endian(4000) + "{}"),
            "m.safetensors: says that its header is 4000 bytes long, the file holds 2 after the "
            "header length");
}

TEST(SafetensorsTest, RejectsMalformedHeaders) {
  EXPECT_EQ(rejection(little_endian(0)), "m.safetensors: header does not begin with '{'");
  EXPECT_EQ(rejection(file_with(" {}")), "m.safetensors: header does not begin with '{'");
  EXPECT_EQ(rejection(file_with("[]")), "m.safetensors: header does not begin with '{'");
  EXPECT_THAT(rejection(file_with("{\"a\":}")),
              StartsWith("m.safetensors (header):1:6: malformed JSON: "));
  EXPECT_THAT(rejection(file_with("{\"\xff\":1}")),
              StartsWith("m.safetensors (header):1:3: malformed JSON: "));
  EXPECT_EQ(rejection(file_with(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)"
                                R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})")),
            "m.safetensors (header): malformed JSON: key \"a\" appears twice in one object");
  EXPECT_EQ(rejection(file_with(R"({"__metadata__":"pt"})")),
            "m.safetensors: __metadata__ is not an object");
  EXPECT_EQ(rejection(file_with(R"({"__metadata__":{"step":3}})")),
            "m.safetensors: __metadata__ key \"step\" is not a string");
}

TEST(SafetensorsTest, RejectsATensorThatMakesNoSense) {
  struct Case {
    std::string_view info;
    std::string_view message;
  };
  const Case cases[] = {
      {R"(3)", "is not an object"},
      {R"({"shape":[1],"data_offsets":[0,4]})", "has no dtype"},
      {R"({"dtype":"F32","data_offsets":[0,4]})", "has no shape"},
      {R"({"dtype":"F32","shape":[1]})", "has no data_offsets"},
      {R"({"dtype":7,"shape":[1],"data_offsets":[0,4]})", "has a dtype that is not a string"},
      {R"({"dtype":"Q4_K","shape":[1],"data_offsets":[0,4]})", "has the unknown dtype \"Q4_K\""},
      {R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})", "has a shape that is not a list"},
      {R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})",
       "has -1 in shape, expected non-negative integers"},
      {R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})",
       "has 1.0 in shape, expected non-negative integers"},
      {R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})",
       "has \"1\" in shape, expected non-negative integers"},
      {R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})",
       "has 18446744073709551615 in shape, expected non-negative integers"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})",
       "has the shape [4294967296, 4294967296], more elements than can be addressed"},
      {R"({"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})",
       "has the shape [4294967296, 4294967296, 0], more elements than can be addressed"},
      {R"({"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,4]})",
       "has the shape [9223372036854775807], more elements than can be addressed"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0]})", "has 1 data_offsets, expected 2"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[0,-4]})",
       "has -4 in data_offsets, expected non-negative integers"},
      {R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})",
       "has the data_offsets [4, 0], expected 4 bytes for F32 [1]"},
      {R"({"dtype":"BF16","shape":[3],"data_offsets":[0,4]})",
       "has the data_offsets [0, 4], expected 6 bytes for BF16 [3]"},
      {R"({"dtype":"F4","shape":[3],"data_offsets":[0,2]})",
       "is F4 [3], which does not fill whole bytes"},
      {R"({"dtype":"F6_E3M2","shape":[2],"data_offsets":[0,2]})",
       "is F6_E3M2 [2], which does not fill whole bytes"},
  };
  for (const Case& test : cases) {
    EXPECT_EQ(rejection(file_with(R"({"w.x":)" + std::string(test.info) + "}", 4)),
              "m.safetensors: tensor \"w.x\" " + std::string(test.message));
  }
}

std::string two_tensors(std::string_view second_offsets) {
  return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
         R"("b":{"dtype":"U8","shape":[4],"data_offsets":)" +
         std::string(second_offsets) + "}}";
}

TEST(SafetensorsTest, RejectsTensorsThatDoNotCoverTheData) {
  EXPECT_EQ(parse(file_with(two_tensors("[4,8]"), 8)).entries.size(), 2u);
  EXPECT_EQ(
      rejection(file_with(two_tensors("[3,7]"), 7)),
      "m.safetensors: tensor \"b\" begins at byte 3 of the data, expected 4, where the tensor "
      "before it ends");
  EXPECT_EQ(
      rejection(file_with(two_tensors("[6,10]"), 10)),
      "m.safetensors: tensor \"b\" begins at byte 6 of the data, expected 4, where the tensor "
      "before it ends");
  EXPECT_EQ(
      rejection(file_with(two_tensors("[0,4]"), 8)),
      "m.safetensors: tensor \"b\" begins at byte 0 of the data, expected 4, where the tensor "
      "before it ends");
  EXPECT_EQ(rejection(file_with(two_tensors("[4,8]"), 7)),
            "m.safetensors: the tensors take 8 bytes of data, the file holds 7");
  EXPECT_EQ(rejection(file_with(two_tensors("[4,8]"), 9)),
            "m.safetensors: the tensors take 8 bytes of data, the file holds 9");
}

TEST(SafetensorsFileTest, ViewsAreTheDatasBytes) {
  const TemporaryDirectory directory;
  std::string file = file_with(two_tensors("[4,8]"));
  write_file(directory / "m.safetensors", file + "abcdefgh");
  const SafetensorsFile opened(directory / "m.safetensors");
  EXPECT_EQ(opened.file_bytes(), static_cast<int64_t>(file.size()) + 8);
  const TensorView view = opened.view(opened.header().entries[1]);
  EXPECT_EQ(view.shape, Shape{4});
  EXPECT_EQ(view.as<char>()[0], 'e');
  EXPECT_EQ(view.as<char>()[3], 'h');
}

TEST(SafetensorsFileTest, ErrorsNameTheFile) {
  const TemporaryDirectory directory;
  write_file(directory / "empty.safetensors", "");
  EXPECT_THAT(error_of([&] { SafetensorsFile(directory / "empty.safetensors"); }).message(),
              StartsWith((directory / "empty.safetensors").string() + ": is 0 bytes long"));
  EXPECT_EQ(error_of([] { SafetensorsFile("/nowhere/x"); }).kind(), ErrorKind::kNotFound);
}

// A quarter of what a 120-billion-parameter mixture of experts has.
TEST(SafetensorsTest, ManyTensorsParseInLinearTime) {
  std::string header = "{";
  constexpr int kTensors = 40'000;
  for (int index = 0; index < kTensors; ++index) {
    const std::string at = std::to_string(4 * index), end = std::to_string(4 * index + 4);
    header += (index > 0 ? ",\"" : "\"") + std::string("backbone.layers.1.mixer.experts.") +
              std::to_string(index) + R"(.up_proj.weight_scale_2":{"dtype":"F32","shape":[],)" +
              R"("data_offsets":[)" + at + "," + end + "]}";
  }
  const SafetensorsHeader parsed = parse(file_with(header + "}", size_t{4} * kTensors));
  EXPECT_EQ(parsed.entries.size(), static_cast<size_t>(kTensors));
  EXPECT_EQ(parsed.entries.back().end, 4 * kTensors);
}

}  // namespace
}  // namespace vernier::io
