#include "comm/ending_hub.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "base/testing.h"

namespace vernier::comm {
namespace {

using Kind = Notice::Kind;
constexpr std::chrono::milliseconds kTogether = std::chrono::milliseconds(200);

// A hub that hears three ranks, whose ends of the connections are the test's.
class EndingHubTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int rank = 0; rank < 3; ++rank) {
      auto [own, hubs] = connected_sockets();
      ranks_.push_back(std::move(own));
      hub_ends_.push_back(std::move(hubs));
    }
    hub_ = std::thread([this] {
      run_ending_hub(
          hub_ends_, [this](const std::string& sentence) { complaints_.push_back(sentence); },
          kTogether);
    });
  }
  // Each case ends all, else this waits for ever.
  void TearDown() override {
    if (hub_.joinable()) hub_.join();
  }

  void say(int rank, Kind kind, int status = 0) const { send_notice(ranks_[rank], {kind, status}); }
  void expect_told(int rank, Kind kind, int status = 0) const {
    const std::optional<Notice> notice = receive_notice(ranks_[rank]);
    ASSERT_TRUE(notice.has_value());
    EXPECT_EQ(notice->kind, kind) << "rank " << rank;
    EXPECT_EQ(notice->status, status) << "rank " << rank;
  }
  void expect_all_told(Kind kind, int status = 0) const {
    for (int rank = 0; rank < 3; ++rank) expect_told(rank, kind, status);
  }
  // What was complained of, when the hub has done.
  const std::vector<std::string>& complaints() {
    hub_.join();
    return complaints_;
  }

  std::vector<Socket> ranks_;

 private:
  std::vector<Socket> hub_ends_;
  std::vector<std::string> complaints_;
  std::thread hub_;
};

TEST_F(EndingHubTest, LetsAllLeaveWhenAllHaveEndedWell) {
  for (const int rank : {2, 0, 1}) say(rank, Kind::kEndedWell);
  expect_all_told(Kind::kLeave);
  EXPECT_TRUE(complaints().empty());
}

TEST_F(EndingHubTest, LetsTheFirstOfAllThatFailSpeak) {
  for (const int rank : {2, 1, 0}) say(rank, Kind::kFailed, 2);
  expect_told(0, Kind::kSpeak);
  expect_told(1, Kind::kBeSilent);
  expect_told(2, Kind::kBeSilent);
  say(0, Kind::kEndAll, 2);
  expect_all_told(Kind::kEnd, 2);
  EXPECT_TRUE(complaints().empty());
}

TEST_F(EndingHubTest, LetsOneSpeakThatFailsWhileOthersRun) {
  say(2, Kind::kFailed, 3);
  say(1, Kind::kFailed, 3);
  expect_told(1, Kind::kSpeak);
  expect_told(2, Kind::kBeSilent);
  say(0, Kind::kFailed, 4);
  expect_told(0, Kind::kBeSilent);
  say(1, Kind::kEndAll, 3);
  expect_all_told(Kind::kEnd, 3);
}

TEST_F(EndingHubTest, LetsOneSpeakAtOnceThatFailsAfterOthersHaveEndedWell) {
  const auto start = std::chrono::steady_clock::now();
  say(0, Kind::kEndedWell);
  say(1, Kind::kEndedWell);
  say(2, Kind::kFailed, 2);
  expect_told(2, Kind::kSpeak);
  EXPECT_LT(std::chrono::steady_clock::now() - start, kTogether);
  say(2, Kind::kEndAll, 2);
  expect_all_told(Kind::kEnd, 2);
}

TEST_F(EndingHubTest, EndsAllWhenOneHasGone) {
  say(0, Kind::kEndedWell);
  ranks_[1] = Socket();
  expect_told(0, Kind::kEnd, 4);
  expect_told(2, Kind::kEnd, 4);
  EXPECT_EQ(complaints(), std::vector<std::string>{
                              "rank 1 has gone: it was killed, or its machine or network failed"});
}

// It knew no more than that it waited in vain.
TEST_F(EndingHubTest, ComplainsWhereOneFailsBecauseAnotherHasGone) {
  say(2, Kind::kFailed, 4);
  ranks_[1] = Socket();
  expect_told(0, Kind::kEnd, 4);
  expect_told(2, Kind::kEnd, 4);
  EXPECT_EQ(complaints().size(), 1u);
}

}  // namespace
}  // namespace vernier::comm
