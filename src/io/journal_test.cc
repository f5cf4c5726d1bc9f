#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/testing.h"
#include "io/json.h"
#include "io/staging.h"

namespace vernier::io {
namespace {

// From the xxHash project's published examples, seed 0.
TEST(Hash64Test, IsXxHash64) {
  EXPECT_EQ(hash64(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(hash64("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(hash64("abc"), 0x44BC2CF5AD770999u);
}

TEST(JournalTest, FindsWhatWasAppended) {
  const TemporaryDirectory directory;
  Journal journal(directory / "journal");
  EXPECT_EQ(journal.size(), 0u);
  EXPECT_EQ(journal.find("layer 1"), nullptr);
  journal.append("layer 1", 7);
  journal.append("layer 2", Json::parse(R"({"amax": [1.5, 2.5]})"));
  EXPECT_EQ(journal.size(), 2u);
  EXPECT_EQ(*journal.find("layer 1"), 7);
  EXPECT_EQ((*journal.find("layer 2"))["amax"][1], 2.5);
}

TEST(JournalTest, IsReadBackExactly) {
  const TemporaryDirectory directory;
  const Json value = {{"text", "two\nlines \xc3\xa9 \"quoted\""},
                      {"third", 1.0 / 3.0},
                      {"tiny", 5e-324},
                      {"infinite", -std::numeric_limits<double>::infinity()},
                      {"nan", std::nan("")},
                      {"list", Json::array({1, Json(nullptr), true})}};
  Journal(directory / "journal").append("a key\nof two lines", value);
  const Journal journal(directory / "journal");
  ASSERT_NE(journal.find("a key\nof two lines"), nullptr);
  EXPECT_EQ(dump_json(*journal.find("a key\nof two lines")), dump_json(value));
}

TEST(JournalTest, ALaterRecordReplacesAnEarlierOne) {
  const TemporaryDirectory directory;
  {
    Journal journal(directory / "journal");
    journal.append("k", 1);
    journal.append("k", 2);
    EXPECT_EQ(*journal.find("k"), 2);
  }
  const Journal journal(directory / "journal");
  EXPECT_EQ(*journal.find("k"), 2);
  EXPECT_EQ(journal.size(), 1u);
}

TEST(JournalTest, ARecordIsOneLine) {
  const TemporaryDirectory directory;
  Journal(directory / "journal").append("k", Json::parse(R"({"a": [1, 2]})"));
  EXPECT_THAT(read_file(directory / "journal"),
              testing::MatchesRegex("[0-9a-f]{16} \\[\"k\",\\{\"a\":\\[1,2\\]\\}\\]\n"));
}

// Whatever byte a crash cut the file at, the whole records before it are there, and only they; what
// is appended afterwards is found again.
TEST(JournalTest, SurvivesACutAtEveryByte) {
  const TemporaryDirectory directory;
  std::vector<size_t> ends = {0};  // of each record
  {
    Journal journal(directory / "journal");
    for (int index = 0; index < 2; ++index) {
      journal.append("key" + std::to_string(index), Json::array({index, "value"}));
      ends.push_back(std::filesystem::file_size(directory / "journal"));
    }
  }
  const std::string whole = read_file(directory / "journal");
  for (size_t cut = 0; cut <= whole.size(); ++cut) {
    write_file(directory / "cut", whole.substr(0, cut));
    size_t n_whole = 0;
    while (n_whole + 1 < ends.size() && ends[n_whole + 1] <= cut) ++n_whole;
    {
      Journal journal(directory / "cut");
      ASSERT_EQ(journal.size(), n_whole) << cut;
      EXPECT_EQ(std::filesystem::file_size(directory / "cut"), ends[n_whole]) << cut;
      journal.append("after", true);
    }
    const Journal journal(directory / "cut");
    ASSERT_EQ(journal.size(), n_whole + 1) << cut;
    for (size_t index = 0; index < n_whole; ++index) {
      EXPECT_NE(journal.find("key" + std::to_string(index)), nullptr) << cut;
    }
  }
}

TEST(JournalTest, AChangedByteEndsTheJournal) {
  const TemporaryDirectory directory;
  size_t first_end = 0;
  {
    Journal journal(directory / "journal");
    journal.append("first", 1);
    first_end = std::filesystem::file_size(directory / "journal");
    journal.append("second", 2);
    journal.append("third", 3);
  }
  const std::string whole = read_file(directory / "journal");
  const size_t second_end = whole.find('\n', first_end) + 1;
  for (size_t at = first_end; at < second_end; ++at) {
    std::string changed = whole;
    changed[at] ^= 0x01;
    write_file(directory / "changed", changed);
    const Journal journal(directory / "changed");
    EXPECT_EQ(journal.size(), 1u) << at;
    EXPECT_EQ(read_file(directory / "changed"), whole.substr(0, first_end));
  }
}

TEST(JournalTest, AForeignFileIsAnEmptyJournal) {
  const TemporaryDirectory directory;
  write_file(directory / "journal", "no record\n0123456789abcdef []\n");
  EXPECT_EQ(Journal(directory / "journal").size(), 0u);
  EXPECT_EQ(read_file(directory / "journal"), "");
}

TEST(JournalTest, ClearDropsEverything) {
  const TemporaryDirectory directory;
  {
    Journal journal(directory / "journal");
    journal.append("old", 1);
    journal.clear();
    EXPECT_EQ(journal.find("old"), nullptr);
    journal.append("new", 2);
  }
  const Journal journal(directory / "journal");
  EXPECT_EQ(journal.size(), 1u);
  EXPECT_NE(journal.find("new"), nullptr);
}

TEST(JournalTest, OneProcessAtATime) {
  const TemporaryDirectory directory;
  Journal first(directory / "journal");
  const Error error = error_of([&] { Journal(directory / "journal"); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), (directory / "journal").string() + ": another process is using it");
}

TEST(JournalTest, NamesAPlaceThatCannotBeWritten) {
  const TemporaryDirectory directory;
  write_file(directory / "file", "x");
  const Error error = error_of([&] { Journal(directory / "file" / "journal"); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(),
            (directory / "file/journal").string() + ": cannot open: Not a directory");
}

}  // namespace
}  // namespace vernier::io
