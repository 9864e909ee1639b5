#include <gtest/gtest.h>

#include "hora/negotiation/negotiator.h"
#include "negotiation/negotiator_tree.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

NegotiatorOptions Limits(Duration warning = seconds(10), Duration abort = seconds(300)) {
  return {.stall_warning = warning, .stall_abort = abort};
}

RankSet Ranks(std::initializer_list<int> ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return set;
}

TEST(Stall, NothingToWaitForWithoutSubmissions) {
  NegotiatorTree tree(3, Limits());
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(tree[rank].NextDeadline(), TimePoint::max());
  tree.SubmitEverywhere(Allreduce("x"));
  EXPECT_EQ(tree[2].NextDeadline(), tree.now() + seconds(10));
  tree.Settle();
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(tree[rank].NextDeadline(), TimePoint::max());
}

TEST(Stall, EveryRankLearnsWhoIsMissingOnce) {
  NegotiatorTree tree(7, Limits());
  for (const int rank : {0, 1, 3, 5}) tree.Submit(rank, Allgather("x", 1));
  tree.Advance(seconds(100));
  for (int rank = 0; rank < 7; ++rank) {
    ASSERT_EQ(tree.outcome(rank).stalled.size(), 1u) << rank;
    const StallSummary& summary = tree.outcome(rank).stalled[0];
    EXPECT_EQ(summary.name, "x");
    EXPECT_EQ(summary.kind, OpKind::kAllgather);
    EXPECT_EQ(summary.submitted, Ranks({0, 1, 3, 5}));
    EXPECT_EQ(summary.missing, Ranks({2, 4, 6}));
    EXPECT_EQ(summary.waited_ms, 10250u);
  }
  for (const int rank : {2, 4, 6}) tree.Submit(rank, Allgather("x", 1));
  tree.Settle();
  EXPECT_EQ(tree.outcome(4).executed.size(), 1u);
  tree.Advance(seconds(1000));
  for (int rank = 0; rank < 7; ++rank) {
    EXPECT_EQ(tree.outcome(rank).stalled.size(), 1u);
    EXPECT_TRUE(tree.outcome(rank).failure.ok());
  }
}

TEST(Stall, AsksOnlyOnceWhoHasTheName) {
  NegotiatorTree tree(15, Limits());
  for (int rank = 0; rank < 14; ++rank) tree.Submit(rank, Allreduce("x"));
  tree.Settle();
  for (int rank = 0; rank < 15; ++rank) tree.outcome(rank).messages_sent = 0;
  tree.Advance(seconds(11));
  // Down: a probe and a summary to each child. Up: a report, merged on the way, and an answer.
  EXPECT_EQ(tree.outcome(0).messages_sent, 4);
  for (int rank = 1; rank < 7; ++rank) EXPECT_LE(tree.outcome(rank).messages_sent, 4 + 4 + 2);
}

TEST(Stall, AMissingRootIsNamedToo) {
  NegotiatorTree tree(3, Limits());
  tree.Submit(1, Allreduce("x"));
  tree.Submit(2, Allreduce("x"));
  tree.Advance(seconds(11));
  ASSERT_EQ(tree.outcome(0).stalled.size(), 1u);
  EXPECT_EQ(tree.outcome(0).stalled[0].missing, RankSet::Of(0));
  EXPECT_EQ(tree.outcome(0).stalled[0].submitted, Ranks({1, 2}));
}

TEST(Stall, WhatBecomesReadyWithinTheGraceIsNotReported) {
  NegotiatorTree tree(3, Limits());
  tree.Submit(1, Allreduce("x"));
  tree.Advance(seconds(10) + milliseconds(100));
  tree.Submit(0, Allreduce("x"));
  tree.Submit(2, Allreduce("x"));
  tree.Settle();
  tree.Advance(seconds(20));
  for (int rank = 0; rank < 3; ++rank) EXPECT_TRUE(tree.outcome(rank).stalled.empty());
  EXPECT_EQ(tree.outcome(0).executed.size(), 1u);
}

// A report that crosses the agreement on its name speaks of a round that is over.
TEST(Stall, ALateReportIsNoFalseAlarm) {
  NegotiatorTree tree(2, Limits());
  tree.Submit(1, Allreduce("x"));
  tree.Settle();
  tree[1].Tick(tree.now() + seconds(10));
  NegotiatorActions late;
  tree[1].Take(late);
  ASSERT_EQ(late.send.size(), 1u);
  tree.Submit(0, Allreduce("x"));
  tree.Settle();
  tree.Submit(1, Allreduce("x"));  // the next round, which has only just begun
  tree.Settle();
  tree[0].Receive(1, late.send[0].message, tree.now());
  tree.Advance(seconds(5));
  EXPECT_TRUE(tree.outcome(0).stalled.empty());
  tree.Advance(seconds(6));  // now it does wait for long
  ASSERT_EQ(tree.outcome(0).stalled.size(), 1u);
  EXPECT_EQ(tree.outcome(0).stalled[0].missing, RankSet::Of(0));
}

TEST(Stall, AfterTheAbortTimeAllRanksFailAndSayWhy) {
  NegotiatorTree tree(3, Limits());
  tree.Submit(0, Allreduce("x"));
  tree.Submit(1, Allreduce("x"));
  tree.Advance(seconds(299));
  for (int rank = 0; rank < 3; ++rank) EXPECT_TRUE(tree.outcome(rank).failure.ok());
  tree.Advance(seconds(2));
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(tree.outcome(rank).failure.code(), StatusCode::kStalled);
    EXPECT_EQ(tree.outcome(rank).failure.message(),
              "rank 2 never submitted allreduce 'x', for which ranks 0-1 have waited 300 s. Let "
              "every rank submit the same operations; if a rank may be this late, increase "
              "HORA_STALL_ABORT_SECONDS.");
    EXPECT_EQ(tree[rank].NextDeadline(), TimePoint::max());
  }
}

TEST(Stall, TheAbortKnowsWhoCameAfterTheWarning) {
  NegotiatorTree tree(5, Limits(seconds(1), seconds(20)));
  tree.Submit(0, Allreduce("x"));
  tree.Advance(seconds(5));
  EXPECT_EQ(tree.outcome(4).stalled.at(0).missing, Ranks({1, 2, 3, 4}));
  for (const int rank : {1, 2, 3}) tree.Submit(rank, Allreduce("x"));
  tree.Advance(seconds(20));
  EXPECT_EQ(tree.outcome(4).failure.message().substr(0, 64),
            "rank 4 never submitted allreduce 'x', for which ranks 0-3 have w");
}

TEST(Stall, WithoutAnAnswerFromTheRootARankGivesUpByItself) {
  NegotiatorTree tree(2, Limits());
  NegotiatorActions actions;
  const TimePoint start;
  tree[1].Submit(Allreduce("x"), start);
  tree[1].Tick(start + seconds(300));
  tree[1].Take(actions);
  EXPECT_TRUE(actions.failure.ok());
  EXPECT_EQ(tree[1].NextDeadline(), start + seconds(300) + milliseconds(250));
  tree[1].Tick(start + seconds(300) + milliseconds(250));
  tree[1].Take(actions);
  EXPECT_EQ(actions.failure.code(), StatusCode::kStalled);
  EXPECT_NE(actions.failure.message().find("rank 0"), std::string::npos);
  ASSERT_EQ(actions.send.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<Abort>(actions.send[0].message));
}

TEST(Stall, TextsNameRanksByTheirNumberAndSummariesByTheirPlace) {
  NegotiatorOptions options = Limits();
  options.names = RankNames({3, 5, 8});
  NegotiatorTree tree(3, options);
  tree.Submit(1, Allreduce("x"));
  tree.Advance(seconds(11));
  EXPECT_EQ(tree.outcome(2).stalled.at(0).missing, Ranks({0, 2}));
  tree.Advance(seconds(300));
  EXPECT_EQ(tree.outcome(2).failure.message().substr(0, 66),
            "ranks 3, 8 never submitted allreduce 'x', for which rank 5 has wai");
}

TEST(Stall, AnAbortTimeBelowTheWarningTimeStillAborts) {
  NegotiatorTree tree(2, Limits(seconds(10), seconds(2)));
  tree.Submit(0, Allreduce("x"));
  tree.Advance(seconds(4));
  EXPECT_EQ(tree.outcome(1).failure.code(), StatusCode::kStalled);
}

TEST(Stall, NeverIsAPossibleAbortTime) {
  NegotiatorTree tree(2, Limits(seconds(1), Duration::max()));
  tree.Submit(0, Allreduce("x"));
  tree.Advance(std::chrono::hours(1));
  EXPECT_TRUE(tree.outcome(0).failure.ok());
  EXPECT_EQ(tree.outcome(1).stalled.size(), 1u);
}

}  // namespace
}  // namespace hora
