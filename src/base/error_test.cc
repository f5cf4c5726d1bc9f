#include "base/error.h"

#include <gtest/gtest.h>

#include <stdexcept>
#include <utility>

#include "base/check.h"
#include "base/testing.h"

namespace vernier {
namespace {

TEST(ErrorTest, CarriesKindAndMessage) {
  const Error error(ErrorKind::kNotFound, "model.safetensors: no such file");
  EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
  EXPECT_EQ(error.message(), "model.safetensors: no such file");
  EXPECT_STREQ(error.what(), "model.safetensors: no such file");
}

TEST(ErrorTest, WithContextReturnsTheResult) {
  EXPECT_EQ(with_context("loading", [] { return 7; }), 7);
  int n_calls = 0;
  with_context("loading", [&] { ++n_calls; });
  EXPECT_EQ(n_calls, 1);
}

TEST(ErrorTest, WithContextPrefixesFromTheInsideOut) {
  const Error error = error_of([] {
    with_context("loading layer 12", [] {
      with_context("expert 3", [] { throw Error(ErrorKind::kCorrupt, "NaN in a scale"); });
    });
  });
  EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(error.message(), "loading layer 12: expert 3: NaN in a scale");
}

TEST(ErrorTest, WithContextLetsOtherExceptionsPass) {
  EXPECT_THROW(with_context("loading", [] { throw std::logic_error("ours"); }), std::logic_error);
}

TEST(ErrorTest, ExitStatusOfEveryKind) {
  const std::pair<ErrorKind, int> expected[] = {
      {ErrorKind::kInvalidArgument, 2}, {ErrorKind::kNotFound, 2},    {ErrorKind::kCorrupt, 2},
      {ErrorKind::kUnsupported, 2},     {ErrorKind::kOutOfMemory, 3}, {ErrorKind::kEnvironment, 3},
      {ErrorKind::kCancelled, 3},       {ErrorKind::kCommFault, 4},
  };
  for (const auto& [kind, status] : expected) EXPECT_EQ(exit_status(kind), status);
}

TEST(CheckTest, AFailedCheckNamesThePlaceAndExitsWith70) {
  EXPECT_EXIT(VERNIER_CHECK(1 + 1 == 3), testing::ExitedWithCode(70),
              "error_test.cc:[0-9]+: check failed: 1 \\+ 1 == 3");
}

TEST(CheckTest, ATrueCheckIsSilent) { VERNIER_CHECK(1 + 1 == 2); }

}  // namespace
}  // namespace vernier
