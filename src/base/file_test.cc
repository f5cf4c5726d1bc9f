#include "base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "base/testing.h"

namespace vernier {
namespace {

using ::testing::StartsWith;

TEST(FileTest, ReadsBackWhatWasWritten) {
  const TemporaryDirectory directory;
  const std::string bytes("line\n\0\xff tail", 12);
  write_file(directory / "a", bytes);
  EXPECT_EQ(read_file(directory / "a"), bytes);
  write_file(directory / "a", "short");
  EXPECT_EQ(read_file(directory / "a"), "short");
}

TEST(FileTest, ReadsAnEmptyFile) {
  const TemporaryDirectory directory;
  write_file(directory / "empty", "");
  EXPECT_EQ(read_file(directory / "empty"), "");
}

TEST(FileTest, NamesAMissingFile) {
  const Error error = error_of([] { read_file("/nowhere/config.json"); });
  EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
  EXPECT_EQ(error.message(), "/nowhere/config.json: no such file");
}

TEST(FileTest, RefusesToReadADirectory) {
  const TemporaryDirectory directory;
  const Error error = error_of([&] { read_file(directory.path()); });
  EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
  EXPECT_EQ(error.message(), directory.path().string() + ": is a directory, expected a file");
}

TEST(FileTest, NamesAFileThatCannotBeWritten) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "x");
  // Below a regular file nothing can be made, whoever runs the test.
  const std::filesystem::path path = directory / "file" / "below";
  const Error error = error_of([&] { write_file(path, "y"); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), path.string() + ": cannot be opened: Not a directory");
}

TEST(FileTest, NamesAFullDisk) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  const Error error = error_of([] { write_file("/dev/full", "y"); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), "/dev/full: cannot be written: No space left on device");
}

TEST(FileTest, SyncsADirectoryAndNamesAMissingOne) {
  const TemporaryDirectory directory;
  sync_directory(directory.path());
  const Error error = error_of([] { sync_directory("/nowhere"); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_THAT(error.message(), StartsWith("/nowhere: cannot be opened: "));
}

// The first and last code point of every row of the Unicode standard's table 3-7.
TEST(Utf8Test, AcceptsTheEndsOfEveryRange) {
  const std::string_view accepted[] = {
      "",
      "plain",
      {"\0", 1},
      "\x7f",
      "\xc2\x80",
      "\xdf\xbf",
      "\xe0\xa0\x80",
      "\xe0\xbf\xbf",
      "\xe1\x80\x80",
      "\xec\xbf\xbf",
      "\xed\x80\x80",
      "\xed\x9f\xbf",
      "\xee\x80\x80",
      "\xef\xbf\xbf",
      "\xf0\x90\x80\x80",
      "\xf0\xbf\xbf\xbf",
      "\xf1\x80\x80\x80",
      "\xf3\xbf\xbf\xbf",
      "\xf4\x80\x80\x80",
      "\xf4\x8f\xbf\xbf",
      "a\xc3\xa9z\xf0\x9f\x98\x80!",
  };
  for (const std::string_view text : accepted) {
    EXPECT_TRUE(is_valid_utf8(text)) << testing::PrintToString(text);
  }
}

TEST(Utf8Test, RejectsWithTheOffsetOfTheFirstBadByte) {
  struct Case {
    const char* why;
    std::string_view text;
    size_t bad_offset;
  };
  const Case rejected[] = {
      {"continuation without a lead", "ab\x80", 2},
      {"overlong two bytes", "\xc0\x80", 0},
      {"overlong two bytes, last", "\xc1\xbf", 0},
      {"overlong three bytes", "\xe0\x9f\xbf", 0},
      {"overlong four bytes", "x\xf0\x8f\xbf\xbf", 1},
      {"first surrogate", "\xed\xa0\x80", 0},
      {"last surrogate", "\xed\xbf\xbf", 0},
      {"beyond U+10FFFF", "\xf4\x90\x80\x80", 0},
      {"lead beyond the table", "\xf5\x80\x80\x80", 0},
      {"never a byte of UTF-8", "\xff", 0},
      {"two bytes cut short", "abc\xc3", 3},
      {"three bytes cut short", "\xe2\x82", 0},
      {"four bytes cut short", "\xf0\x9f\x98", 0},
      {"lead followed by a letter", "\xc3(", 0},
      {"third byte is a letter", "\xe2\x82(", 0},
      {"fourth byte is a letter", "\xf0\x9f\x98(", 0},
      {"good before bad", "\xc3\xa9\xc3\xa9\xfe", 4},
  };
  for (const Case& test : rejected) {
    size_t bad_offset = 99;
    EXPECT_FALSE(is_valid_utf8(test.text, &bad_offset)) << test.why;
    EXPECT_EQ(bad_offset, test.bad_offset) << test.why;
    EXPECT_FALSE(is_valid_utf8(test.text)) << test.why;
  }
}

}  // namespace
}  // namespace vernier
