#include "runtime/hidden_store.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "base/testing.h"

namespace vernier::runtime {
namespace {

class EitherPlace : public ::testing::TestWithParam<HiddenPlacement> {
 protected:
  const TemporaryDirectory directory_;
  HiddenStore store(int64_t rows, int64_t cols) const {
    return HiddenStore(rows, cols, GetParam(), directory_.path());
  }
};

// More than a few pages, and no multiple of one.
TEST_P(EitherPlace, StartsAtZeroAndKeepsWhatIsWritten) {
  constexpr int64_t kRows = 301, kCols = 67;
  const HiddenStore store = this->store(kRows, kCols);
  const MatrixView view = store.view().host();
  ASSERT_EQ(view.rows, kRows);
  ASSERT_EQ(view.cols, kCols);
  for (int64_t row = 0; row < kRows; ++row) {
    EXPECT_TRUE(std::ranges::all_of(view.row(row), [](float value) { return value == 0; }));
    std::ranges::fill(view.row(row), static_cast<float>(row));
  }
  for (int64_t row = 0; row < kRows; ++row) {
    EXPECT_TRUE(std::ranges::all_of(
        view.row(row), [row](float value) { return value == static_cast<float>(row); }));
  }
}

TEST_P(EitherPlace, MovesWithoutCopying) {
  HiddenStore first = store(3, 5);
  first.view().host().row(2)[4] = 7;
  const void* data = first.view().data;
  const HiddenStore second = std::move(first);
  EXPECT_EQ(second.view().data, data);
  EXPECT_EQ(second.view().host().row(2)[4], 7);
  EXPECT_EQ(first.view().data, nullptr);
  EXPECT_EQ(first.view().rows, 0);
}

TEST_P(EitherPlace, MayBeEmpty) { EXPECT_EQ(store(0, 64).view().rows, 0); }

INSTANTIATE_TEST_SUITE_P(Placements, EitherPlace,
                         ::testing::Values(HiddenPlacement::kMemory, HiddenPlacement::kFile),
                         [](const auto& info) {
                           return info.param == HiddenPlacement::kMemory ? "memory" : "file";
                         });

TEST(HiddenFile, LeavesNoName) {
  const TemporaryDirectory directory;
  const HiddenStore store(10, 10, HiddenPlacement::kFile, directory.path());
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

TEST(HiddenFile, NamesTheDirectoryThatRefuses) {
  const TemporaryDirectory directory;
  const Error error =
      error_of([&] { HiddenStore(10, 10, HiddenPlacement::kFile, directory / "missing"); });
  EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
  EXPECT_EQ(error.message(), (directory / "missing").string() +
                                 ": cannot keep 400 bytes of hidden states there: No such file or "
                                 "directory");
}

// Address space, not memory, is what runs out here: 2^60 bytes.
TEST(HiddenMemory, SaysHowMuchCannotBeMapped) {
  const Error error =
      error_of([] { HiddenStore(int64_t{1} << 38, 1 << 20, HiddenPlacement::kMemory, "."); });
  EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
  EXPECT_EQ(error.message(), "cannot map 1152921504606846976 bytes of hidden states");
}

}  // namespace
}  // namespace vernier::runtime
