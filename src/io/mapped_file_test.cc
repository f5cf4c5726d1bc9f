#include "io/mapped_file.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "base/file.h"
#include "base/testing.h"

namespace vernier::io {
namespace {

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(MappedFileTest, HoldsTheFilesBytes) {
  const TemporaryDirectory directory;
  write_file(directory / "a", "some bytes");
  MappedFile file(directory / "a");
  EXPECT_EQ(text_of(file.bytes()), "some bytes");
  const MappedFile moved = std::move(file);
  EXPECT_EQ(text_of(moved.bytes()), "some bytes");
}

TEST(MappedFileTest, AssignmentLetsTheOldFileGo) {
  const TemporaryDirectory directory;
  write_file(directory / "a", "first");
  write_file(directory / "b", "second");
  MappedFile file(directory / "a");
  file = MappedFile(directory / "b");
  EXPECT_EQ(text_of(file.bytes()), "second");
}

TEST(MappedFileTest, AnEmptyFileIsAnEmptySpan) {
  const TemporaryDirectory directory;
  write_file(directory / "empty", "");
  EXPECT_TRUE(MappedFile(directory / "empty").bytes().empty());
}

TEST(MappedFileTest, NamesWhatCannotBeMapped) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "x");
  const Error missing = error_of([] { MappedFile("/nowhere/model.safetensors"); });
  EXPECT_EQ(missing.kind(), ErrorKind::kNotFound);
  EXPECT_EQ(missing.message(), "/nowhere/model.safetensors: no such file");
  const Error is_directory = error_of([&] { MappedFile{directory.path()}; });
  EXPECT_EQ(is_directory.kind(), ErrorKind::kInvalidArgument);
  EXPECT_EQ(is_directory.message(),
            directory.path().string() + ": is a directory, expected a file");
  const Error below = error_of([&] { MappedFile(directory / "file" / "below"); });
  EXPECT_EQ(below.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(below.message(),
            (directory / "file/below").string() + ": cannot open: Not a directory");
}

TEST(MappedFileTest, AdviceNeverChangesTheBytes) {
  const TemporaryDirectory directory;
  std::string bytes(100'000, '\0');
  for (size_t index = 0; index < bytes.size(); ++index) bytes[index] = static_cast<char>(index * 7);
  write_file(directory / "a", bytes);
  const MappedFile file(directory / "a");
  for (const auto& [begin, size] : {std::pair<size_t, size_t>{0, 100'000},
                                    {5, 3},
                                    {4096, 8192},
                                    {99'999, 1},
                                    {100'000, 0},
                                    {4095, 2}}) {
    advise_will_need(file.bytes().subspan(begin, size));
    advise_done(file.bytes().subspan(begin, size));
  }
  advise_will_need({});
  advise_done({});
  EXPECT_EQ(text_of(file.bytes()), bytes);
}

}  // namespace
}  // namespace vernier::io
