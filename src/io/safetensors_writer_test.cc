#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/testing.h"
#include "io/safetensors.h"

namespace vernier::io {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::vector<std::string> names_of(const std::vector<TensorDecl>& tensors) {
  std::vector<std::string> names;
  for (const TensorDecl& tensor : tensors) names.push_back(tensor.name);
  return names;
}

TEST(SortCanonicallyTest, DtypeDescendingThenNameByBytes) {
  std::vector<TensorDecl> tensors = {
      {"b", DType::kU8, {}},         {"Z", DType::kBF16, {}},   {"layers.2", DType::kF32, {}},
      {"a", DType::kBF16, {}},       {"x", DType::kF8E4M3, {}}, {"layers.10", DType::kF32, {}},
      {"\xc3\xa9", DType::kF32, {}},
  };
  sort_canonically(tensors);
  EXPECT_THAT(names_of(tensors),
              ElementsAre("layers.10", "layers.2", "\xc3\xa9", "Z", "a", "x", "b"));
}

// Laid out by hand: the length (200), 193 bytes of JSON, 7 spaces to a multiple of 8, the data.
TEST(SafetensorsWriterTest, WritesTheseBytes) {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(
      directory / "m",
      {{"wt", DType::kU8, {1, 2}}, {"s", DType::kF32, {}}, {"b", DType::kBF16, {1}}});
  writer.write("wt", bytes_of("WX"));
  writer.write("b", bytes_of("bc"));
  writer.write("s", bytes_of("1234"));
  writer.finish();
  const std::string json = R"({"__metadata__":{"format":"pt"},)"
                           R"("s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                           R"("b":{"dtype":"BF16","shape":[1],"data_offsets":[4,6]},)"
                           R"("wt":{"dtype":"U8","shape":[1,2],"data_offsets":[6,8]}})";
  ASSERT_EQ(json.size(), 193u);
  const std::string length("\xc8\0\0\0\0\0\0\0", 8);
  EXPECT_EQ(read_file(directory / "m"), length + json + "       " + "1234bcWX");
}

TEST(SafetensorsWriterTest, EscapesNames) {
  const TemporaryDirectory directory;
  const std::string name = "a\"b\\c\n\x01\x7f\xc3\xa9";
  SafetensorsWriter writer(directory / "m", {{name, DType::kU8, {0}}});
  writer.write(name, {});
  writer.finish();
  EXPECT_EQ(SafetensorsFile(directory / "m").header().entries.at(0).name, name);
  // The official writer escapes what JSON demands and nothing else.
  EXPECT_THAT(read_file(directory / "m"), HasSubstr("\"a\\\"b\\\\c\\n\\u0001\x7f\xc3\xa9\":{"));
}

TEST(SafetensorsWriterTest, AFileWithoutTensors) {
  const TemporaryDirectory directory;
  SafetensorsWriter(directory / "m", {}).finish();
  const SafetensorsFile file(directory / "m");
  EXPECT_TRUE(file.header().entries.empty());
  EXPECT_EQ(file.header().data_start, 40);
}

TEST(SafetensorsWriterTest, HasItsFinalSizeFromTheStart) {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "m", {{"w", DType::kF32, {1000}}});
  EXPECT_EQ(SafetensorsFile(directory / "m").header().entries[0].end, 4000);
}

TEST(SafetensorsWriterTest, ReplacesAnotherFile) {
  const TemporaryDirectory directory;
  write_file(directory / "m", std::string(5000, 'x'));
  for (const bool resume : {false, true}) {
    SafetensorsWriter writer(directory / "m", {{"w", DType::kU8, {3}}}, resume);
    EXPECT_EQ(writer.is_resumed(), resume);  // the second time the layout is that of the first
    writer.write("w", bytes_of("abc"));
    writer.finish();
    EXPECT_THAT(read_file(directory / "m"), EndsWith("abc"));
  }
  SafetensorsWriter other(directory / "m", {{"v", DType::kU8, {3}}}, /*resume=*/true);
  EXPECT_FALSE(other.is_resumed());
  EXPECT_THAT(read_file(directory / "m"), EndsWith(std::string(3, '\0')));
}

TEST(SafetensorsWriterTest, ContinuesAnEarlierRun) {
  const TemporaryDirectory directory;
  const std::vector<TensorDecl> tensors = {{"a", DType::kU8, {2}}, {"b", DType::kU8, {2}}};
  {
    SafetensorsWriter killed(directory / "m", tensors);
    killed.write("a", bytes_of("AA"));
    killed.sync();
  }
  SafetensorsWriter writer(directory / "m", tensors, /*resume=*/true);
  EXPECT_TRUE(writer.is_resumed());
  writer.write("b", bytes_of("BB"));
  writer.finish();
  EXPECT_THAT(read_file(directory / "m"), EndsWith("AABB"));
}

TEST(SafetensorsWriterTest, ATensorMayBeWrittenAgain) {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "m", {{"a", DType::kU8, {2}}});
  writer.write("a", bytes_of("11"));
  writer.write("a", bytes_of("22"));
  writer.finish();
  EXPECT_THAT(read_file(directory / "m"), EndsWith("22"));
}

TEST(SafetensorsWriterTest, FinishNamesWhatWasNeverWritten) {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(
      directory / "m", {{"a", DType::kU8, {1}}, {"c", DType::kU8, {1}}, {"b", DType::kU8, {1}}});
  writer.write("a", bytes_of("1"));
  const Error error = error_of([&] { writer.finish(); });
  EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(error.message(),
            (directory / "m").string() + ": 2 of 3 tensors were never written, the first is \"b\"");
}

TEST(SafetensorsWriterTest, RefusesAHeaderBeyondTheFormat) {
  const TemporaryDirectory directory;
  std::vector<TensorDecl> tensors;
  for (const char letter : {'a', 'b', 'c', 'd'}) {
    tensors.push_back({std::string(26'000'000, letter), DType::kU8, {0}});
  }
  const Error error = error_of([&] { SafetensorsWriter(directory / "m", tensors); });
  EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
  EXPECT_THAT(error.message(),
              StartsWith((directory / "m").string() + ": 4 tensors need a header of"));
  EXPECT_FALSE(fs::exists(directory / "m"));
}

TEST(SafetensorsWriterTest, NamesAPlaceThatCannotBeWritten) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "x");
  const Error error = error_of([&] { SafetensorsWriter(directory / "file" / "m", {}); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), (directory / "file/m").string() + ": cannot open: Not a directory");
}

// Files of this process may not grow beyond a size: the nearest to a full disk that needs no mount.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t n_bytes) : old_handler_(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &old_limit_);
    const rlimit limit{n_bytes, old_limit_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &old_limit_);
    ::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_;
  void (*old_handler_)(int);
};

TEST(SafetensorsWriterTest, NamesTheFileThatDoesNotFit) {
  const TemporaryDirectory directory;
  const FileSizeLimit limit(10'000);
  const Error error = error_of([&] {
    SafetensorsWriter(directory / "m", {{"w", DType::kU8, {100'000}}});
  });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_THAT(error.message(), StartsWith((directory / "m").string() + ": cannot make it 100"));
  EXPECT_THAT(error.message(), EndsWith(" bytes long: File too large"));
}

TEST(SafetensorsWriterTest, NamesTheTensorThatDoesNotFit) {
  const TemporaryDirectory directory;
  SafetensorsWriter writer(directory / "m", {{"w", DType::kU8, {100'000}}});
  const FileSizeLimit limit(50'000);  // the first write call is cut short, the second fails
  const Error error = error_of([&] { writer.write("w", bytes_of(std::string(100'000, 'w'))); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(),
            (directory / "m").string() + ": cannot write tensor \"w\": File too large");
}

// What another writer laid out canonically, ours lays out in the same bytes.
void expect_rewritten_identically(const fs::path& path) {
  const TemporaryDirectory directory;
  const SafetensorsFile source(path);
  std::vector<TensorDecl> tensors;
  for (const TensorEntry& entry : source.header().entries) {
    tensors.push_back({entry.name, entry.dtype, entry.shape});
  }
  std::reverse(tensors.begin(), tensors.end());
  SafetensorsWriter writer(directory / "m", tensors);
  for (const TensorEntry& entry : source.header().entries) {
    writer.write(entry.name, source.view(entry).bytes());
  }
  writer.finish();
  EXPECT_TRUE(read_file(directory / "m") == read_file(path)) << path;
}

TEST(SafetensorsWriterTest, RewritesOfficialFilesIdentically) {
  const fs::path root = VERNIER_SOURCE_DIR;
  expect_rewritten_identically(root / "tests/golden/latent/checkpoint/model.safetensors");
  expect_rewritten_identically(root / "models/tiny/model-00001-of-00002.safetensors");
  expect_rewritten_identically(root / "models/tiny/model-00002-of-00002.safetensors");
  // By the safetensors package 0.8.0: all dtypes of torch, names to escape, empty tensors.
  expect_rewritten_identically(root / "tests/fuzz/safetensors/official_dtypes");
}

// Any declarations, zero-dimensional and empty ones included, whose sizes are whole bytes.
std::vector<TensorDecl> any_tensors() {
  const auto names = *rc::gen::arbitrary<std::set<uint16_t>>();
  std::vector<TensorDecl> tensors;
  for (const uint16_t number : names) {
    const auto dtype = static_cast<DType>(*rc::gen::inRange(0, static_cast<int>(DType::kU64) + 1));
    Shape shape = *rc::gen::resize(4, rc::gen::container<Shape>(rc::gen::inRange<int64_t>(0, 6)));
    if (n_elems(shape) * dtype_info(dtype).bits % 8 != 0) shape.push_back(4);
    tensors.push_back({"tensor." + std::to_string(number), dtype, shape});
  }
  return tensors;
}

RC_GTEST_PROP(SafetensorsWriterProperty, ReadsBackWhatWasWritten, ()) {
  const TemporaryDirectory directory;
  const std::vector<TensorDecl> tensors = any_tensors();
  std::map<std::string, std::string> data;
  {
    SafetensorsWriter writer(directory / "m", tensors);
    for (const TensorDecl& tensor : tensors) {
      std::string bytes(static_cast<size_t>(tensor.size_bytes()), '\0');
      for (char& byte : bytes) byte = *rc::gen::arbitrary<char>();
      writer.write(tensor.name, bytes_of(bytes));
      data.emplace(tensor.name, bytes);
    }
    writer.finish();
  }
  std::vector<TensorDecl> sorted = tensors;
  sort_canonically(sorted);
  const SafetensorsFile file(directory / "m");
  RC_ASSERT(file.header().data_start % 8 == 0);
  RC_ASSERT(file.header().entries.size() == sorted.size());
  for (size_t index = 0; index < sorted.size(); ++index) {
    const TensorEntry& entry = file.header().entries[index];
    RC_ASSERT(entry.name == sorted[index].name);
    RC_ASSERT(entry.dtype == sorted[index].dtype);
    RC_ASSERT(entry.shape == sorted[index].shape);
    const auto bytes = file.view(entry).bytes();
    const std::string& expected = data.at(entry.name);
    RC_ASSERT(std::equal(bytes.begin(), bytes.end(), bytes_of(expected).begin(),
                         bytes_of(expected).end()));
  }
}

}  // namespace
}  // namespace vernier::io
