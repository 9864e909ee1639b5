#include "hora/net/store_gathering.h"

#include <gtest/gtest.h>

#include "hora/base/format.h"

namespace hora {
namespace {

using std::chrono::seconds;

// Members are numbered like their ranks plus 100; each has a client of its own.
class StoreGatheringTest : public ::testing::Test {
 protected:
  using Outcome = StoreGathering::Outcome;

  std::optional<Outcome> Come(int rank, int size, std::uint64_t client = 0,
                              std::uint64_t member = 0) {
    return gathering_.Come(member != 0 ? member : MemberOf(rank),
                           {.rank = rank,
                            .size = size,
                            .client = client != 0 ? client : MemberOf(rank),
                            .tells = fmt::format("words of {}", rank)},
                           fmt::format("10.0.0.{}:9", rank), now_);
  }
  static std::uint64_t MemberOf(int rank) { return static_cast<std::uint64_t>(rank) + 100; }

  static MeetAnswer Met(const std::optional<Outcome>& outcome) {
    EXPECT_TRUE(outcome.has_value() && std::holds_alternative<MeetAnswer>(outcome->answer));
    return outcome ? std::get<MeetAnswer>(outcome->answer) : MeetAnswer{};
  }
  static Status Refused(const std::optional<Outcome>& outcome) {
    EXPECT_TRUE(outcome.has_value() && std::holds_alternative<Refusal>(outcome->answer));
    return outcome ? std::get<Refusal>(outcome->answer).status : Status::Ok();
  }

  StoreGathering gathering_{1000};
  TimePoint now_ = TimePoint(seconds(100));
};

TEST_F(StoreGatheringTest, IsCompleteWhenEveryRankIsThere) {
  EXPECT_FALSE(Come(2, 3));
  EXPECT_FALSE(Come(0, 3));
  const auto outcome = Come(1, 3);
  EXPECT_EQ(Met(outcome), (MeetAnswer{1001, {"words of 0", "words of 1", "words of 2"}}));
  EXPECT_EQ(outcome->members, (std::vector<std::uint64_t>{100, 101, 102}));
}

TEST_F(StoreGatheringTest, GenerationsGrowAndSizesMayChange) {
  EXPECT_EQ(Met(Come(0, 1)).generation, 1001u);
  EXPECT_FALSE(Come(0, 2));
  EXPECT_EQ(Met(Come(1, 2)).generation, 1002u);
  EXPECT_EQ(Met(Come(0, 1)).generation, 1003u);
}

TEST_F(StoreGatheringTest, WhoLeavesDoesNotCountAndMayComeAgain) {
  EXPECT_FALSE(Come(0, 2));
  gathering_.Leave(MemberOf(0));
  EXPECT_FALSE(Come(1, 2));
  EXPECT_EQ(Met(Come(0, 2)).told.size(), 2u);
}

TEST_F(StoreGatheringTest, TheSameClientTakesItsOwnPlace) {
  EXPECT_FALSE(Come(0, 2));
  EXPECT_FALSE(Come(0, 2, MemberOf(0), 500));
  gathering_.Leave(MemberOf(0));  // the end of the old connection arrives late
  EXPECT_EQ(Come(1, 2)->members, (std::vector<std::uint64_t>{500, 101}));
}

TEST_F(StoreGatheringTest, ARankTwiceFailsAllAndNamesBothAddresses) {
  EXPECT_FALSE(Come(0, 3));
  EXPECT_FALSE(Come(1, 3));
  const auto outcome = Come(1, 3, 7, 500);
  const Status status = Refused(outcome);
  EXPECT_EQ(status.code(), StatusCode::kMismatch);
  EXPECT_EQ(status.message(),
            "rank 1 is claimed by two processes: one at 10.0.0.1:9 and one at 10.0.0.1:9");
  EXPECT_EQ(outcome->members, (std::vector<std::uint64_t>{500, 100, 101}));
}

TEST_F(StoreGatheringTest, AnotherSizeFailsAll) {
  EXPECT_FALSE(Come(0, 3));
  const Status status = Refused(Come(1, 4));
  EXPECT_EQ(status.code(), StatusCode::kMismatch);
  EXPECT_EQ(status.message(),
            "rank 1 (10.0.0.1:9) was started for 4 ranks, rank 0 (10.0.0.0:9) for 3: start all "
            "ranks of a job with the same size");
}

TEST_F(StoreGatheringTest, ARankBeyondTheSizeFailsAll) {
  EXPECT_FALSE(Come(0, 2));
  EXPECT_EQ(Refused(Come(2, 2)).message(),
            "10.0.0.2:9 claims rank 2 of 2 ranks; allowed are 0 to 1");
}

TEST_F(StoreGatheringTest, LateRanksHearOfAFailureOnceAndMayThenMeet) {
  EXPECT_FALSE(Come(0, 3));
  EXPECT_EQ(Refused(Come(0, 3, 7, 500)).code(), StatusCode::kMismatch);
  EXPECT_EQ(Refused(Come(1, 3)).code(), StatusCode::kMismatch);
  // Rank 1 knows, and begins again: the failure is over for everybody.
  EXPECT_FALSE(Come(1, 3));
  EXPECT_FALSE(Come(2, 3));
  EXPECT_EQ(Met(Come(0, 3)).generation, 1001u);
}

TEST_F(StoreGatheringTest, AFailureIsForgottenAfterAWhile) {
  EXPECT_FALSE(Come(0, 2));
  EXPECT_EQ(Refused(Come(0, 2, 7, 500)).code(), StatusCode::kMismatch);
  now_ += seconds(6);
  EXPECT_FALSE(Come(1, 2));
}

TEST_F(StoreGatheringTest, WhoGivesUpIsToldWhoIsMissing) {
  EXPECT_FALSE(Come(0, 4));
  EXPECT_FALSE(Come(2, 4));
  gathering_.Leave(MemberOf(2));
  EXPECT_FALSE(Come(1, 4));
  EXPECT_FALSE(Come(3, 4));
  now_ += seconds(12);
  const Status first = gathering_.GiveUp(MemberOf(0), now_);
  EXPECT_EQ(first.code(), StatusCode::kTimeout);
  EXPECT_EQ(first.message(),
            "the 4 ranks did not all meet within 12 s: have 0-1, 3; missing 2 (2 came from "
            "10.0.0.2:9 and left again)");
  // Rank 0 had come: that it has tired is not why rank 1 waits.
  EXPECT_EQ(gathering_.GiveUp(MemberOf(1), now_).message(),
            "the 4 ranks did not all meet within 12 s: have 1, 3; missing 2; waited and gave up 0 "
            "(2 came from 10.0.0.2:9 and left again)");
  EXPECT_EQ(gathering_.WaitingAs(1), std::nullopt);
  EXPECT_EQ(gathering_.WaitingAs(3), MemberOf(3));
}

TEST_F(StoreGatheringTest, SaysWhenAMissingRankNeverCame) {
  EXPECT_FALSE(Come(0, 2));
  EXPECT_TRUE(
      gathering_.GiveUp(MemberOf(0), now_).message().ends_with("have 0; missing 1 (never seen)"));
}

TEST_F(StoreGatheringTest, ARefusalEndsTheWaitOfThoseWhoAreThereAndComeSoon) {
  EXPECT_FALSE(Come(0, 3));
  const Status misfit(StatusCode::kInvalidArgument, "another version");
  const auto told = gathering_.Refuse(misfit, now_);
  EXPECT_EQ(Refused(told).message(), "another version");
  EXPECT_EQ(told.members, std::vector<std::uint64_t>{MemberOf(0)});
  EXPECT_TRUE(gathering_.Refuse(misfit, now_).members.empty());  // another rank of that host
  now_ += seconds(1);
  EXPECT_EQ(Refused(Come(1, 3)).message(), "another version");
  EXPECT_FALSE(Come(0, 3)) << "it has been told, and tries again";
  EXPECT_FALSE(Come(1, 3));
  EXPECT_EQ(Met(Come(2, 3)).told.size(), 3u);
}

TEST_F(StoreGatheringTest, ARefusalPasses) {
  EXPECT_TRUE(gathering_.Refuse(Status(StatusCode::kInvalidArgument, "x"), now_).members.empty());
  now_ += seconds(6);
  EXPECT_EQ(Met(Come(0, 1)).told.size(), 1u);
}

TEST_F(StoreGatheringTest, WhatAMemberSaysIsRememberedForLonger) {
  const Status problem(StatusCode::kInvalidArgument, "no disk");
  EXPECT_TRUE(gathering_.Report(2, problem, now_).members.empty());
  now_ += seconds(50);
  EXPECT_EQ(Refused(Come(0, 3)).message(), "no disk");
  EXPECT_FALSE(Come(2, 3)) << "it has mended what it reported";
  EXPECT_FALSE(Come(1, 3));
}

// What a stranger has recorded must not end a job that runs.
TEST_F(StoreGatheringTest, NobodyIsRefusedAfterTheFirstMeeting) {
  EXPECT_EQ(Met(Come(0, 1)).told.size(), 1u);
  EXPECT_FALSE(Come(0, 2));
  EXPECT_TRUE(gathering_.Refuse(Status(StatusCode::kInvalidArgument, "x"), now_).members.empty());
  EXPECT_EQ(Met(Come(1, 2)).told.size(), 2u);
}

}  // namespace
}  // namespace hora
