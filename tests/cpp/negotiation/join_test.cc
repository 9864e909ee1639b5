// Ranks that have no more data: allreduces go on without them until all have joined.
#include <gtest/gtest.h>

#include "hora/negotiation/negotiator.h"
#include "negotiation/negotiator_tree.h"

namespace hora {
namespace {

using std::chrono::seconds;

Request Join() { return {.name = std::string(kJoinName), .params = {.kind = OpKind::kJoin}}; }

RankSet Ranks(std::initializer_list<int> ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return set;
}

TEST(Join, AllreducesLeaveOutWhoHasJoined) {
  NegotiatorTree tree(7);
  tree.Submit(1, Join());
  tree.Submit(5, Join());
  tree.Settle();
  for (const int rank : {0, 2, 3, 4, 6}) tree.Submit(rank, Allreduce("x"));
  tree.Settle();
  for (int rank = 0; rank < 7; ++rank) {
    ASSERT_EQ(tree.outcome(rank).executed.size(), 1u) << rank;
    EXPECT_EQ(tree.outcome(rank).executed[0].absent, Ranks({1, 5}));
    EXPECT_TRUE(tree.outcome(rank).executed[0].error.ok());
    EXPECT_EQ(tree[rank].cached_count(), 0u);  // the next response will be another
  }
  EXPECT_EQ(tree[1].pending_count(), 1u);
}

TEST(Join, EndsWhenAllHaveJoinedAndNamesTheLast) {
  NegotiatorTree tree(5);
  for (const int rank : {4, 0, 1, 3, 2}) {
    tree.Submit(rank, Join());
    tree.Settle();
  }
  for (int rank = 0; rank < 5; ++rank) {
    ASSERT_EQ(tree.outcome(rank).executed.size(), 1u);
    const Response& join = tree.outcome(rank).executed[0];
    EXPECT_EQ(join.params.kind, OpKind::kJoin);
    EXPECT_EQ(join.params.root_rank, 2);
    EXPECT_TRUE(join.absent.empty());
    EXPECT_EQ(tree[rank].pending_count(), 0u);
    EXPECT_EQ(tree[rank].cached_count(), 0u);
  }
  // Nobody has joined any more.
  for (int rank = 0; rank < 4; ++rank) tree.Submit(rank, Allreduce("x"));
  tree.Settle();
  EXPECT_EQ(tree.outcome(0).executed.size(), 1u);
  tree.Submit(4, Allreduce("x"));
  tree.Settle();
  EXPECT_TRUE(tree.outcome(0).executed.at(1).absent.empty());
}

TEST(Join, ARankAloneJoinsAtOnce) {
  NegotiatorTree tree(1);
  tree.Submit(0, Join());
  tree.Settle();
  EXPECT_EQ(tree.outcome(0).executed.at(0).params.root_rank, 0);
}

TEST(Join, TheCacheSurvivesAndServesAgain) {
  NegotiatorTree tree(3);
  for (int round = 0; round < 3; ++round) {
    tree.SubmitEverywhere(Allreduce("x"));
    tree.Settle();
    tree.Submit(2, Join());
    for (const int rank : {0, 1}) tree.Submit(rank, Allreduce("x"));
    tree.Settle();
    EXPECT_EQ(tree.outcome(1).executed.back().absent, Ranks({2}));
    for (const int rank : {0, 1}) tree.Submit(rank, Join());
    tree.Settle();
    for (int rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(tree[rank].cached_count(), 1u);
      EXPECT_EQ(tree.outcome(rank).executed, tree.outcome(0).executed);
    }
  }
  tree.Submit(1, Allreduce("x"));
  NegotiatorActions actions;
  tree[1].Take(actions);
  EXPECT_EQ(std::get<Readiness>(actions.send.at(0).message).cached, SlotSet::Of(0));
}

TEST(Join, WhatWasSubmittedBeforeIsCounted) {
  NegotiatorTree tree(7);
  tree.SubmitEverywhere(Allreduce("bit"));
  tree.Settle();
  for (const int rank : {3, 6}) {
    tree.Submit(rank, Allreduce("bit"));
    tree.Submit(rank, Allreduce("new"));
    tree.Submit(rank, Join());
  }
  tree.Settle();
  for (const int rank : {0, 1, 2, 4, 5}) {
    tree.Submit(rank, Allreduce("bit"));
    tree.Submit(rank, Allreduce("new"));
  }
  tree.Settle();
  for (int rank = 0; rank < 7; ++rank) {
    ASSERT_EQ(tree.outcome(rank).executed.size(), 3u);
    for (const Response& response : tree.outcome(rank).executed) {
      EXPECT_TRUE(response.absent.empty()) << response.name;
    }
  }
}

TEST(Join, AGroupGoesOnAsOne) {
  NegotiatorTree tree(2);
  Request group = Allreduce("g");
  group.params.rest = {{DType::kFloat64, {3}}, {DType::kBFloat16, {}}};
  tree.Submit(0, Join());
  tree.Submit(1, group);
  tree.Settle();
  const Response& response = tree.outcome(0).executed.at(0);
  EXPECT_EQ(response.params, group.params);
  EXPECT_EQ(response.absent, Ranks({0}));
}

TEST(Join, OtherKindsNameTheJoinedRanks) {
  NegotiatorTree tree(3, {.names = RankNames({10, 20, 30})});
  tree.Submit(0, Join());
  tree.Submit(2, Join());
  tree.Submit(1, Broadcast("b", 1));
  tree.Submit(1, Allgather("a", 2));
  tree.Submit(1, {.name = "barrier", .params = {.kind = OpKind::kBarrier}});
  tree.Settle();
  ASSERT_EQ(tree.outcome(1).executed.size(), 3u);
  for (const Response& response : tree.outcome(1).executed) {
    EXPECT_EQ(response.error.code(), StatusCode::kMismatch);
    EXPECT_EQ(response.absent, Ranks({0, 2}));
    EXPECT_TRUE(response.first_dims.empty());
  }
  EXPECT_EQ(tree.outcome(1).executed[0].error.message().substr(0, 80),
            "allgather 'a': ranks 10, 30 have joined, and only an allreduce goes on without t")
      << "or in another order";
  EXPECT_EQ(tree.outcome(0).executed, tree.outcome(1).executed);
}

// As another thread of the rank may submit.
TEST(Join, WhatASubmitterAddsLaterStillCounts) {
  NegotiatorTree tree(3);
  tree.Submit(2, Join());
  tree.Settle();
  tree.Submit(2, Allreduce("x"));
  tree.Settle();
  tree.Submit(0, Allreduce("x"));
  tree.Submit(1, Allreduce("x"));
  tree.Settle();
  EXPECT_TRUE(tree.outcome(2).executed.at(0).absent.empty());
  EXPECT_EQ(tree[2].pending_count(), 1u);
}

// Rank 2's late submission crosses a decision that leaves it out: it belongs to the next round.
TEST(Join, ALateSubmissionThatCrossesTheDecisionWaitsForTheNext) {
  NegotiatorTree tree(4);  // 0 → 1 → 2, 0 → 3
  tree.Submit(2, Join());
  tree.Settle();
  for (const int rank : {0, 1, 3}) tree.Submit(rank, Allreduce("x"));
  tree.Take(1);
  tree.Submit(2, Allreduce("x"));
  tree.Settle();
  ASSERT_EQ(tree.outcome(2).executed.size(), 1u);
  EXPECT_EQ(tree.outcome(2).executed[0].absent, Ranks({2}));
  EXPECT_EQ(tree[2].pending_count(), 2u);
  for (const int rank : {0, 1, 3}) tree.Submit(rank, Allreduce("x"));
  tree.Settle();
  EXPECT_TRUE(tree.outcome(2).executed.at(1).absent.empty());
  EXPECT_EQ(tree[2].pending_count(), 1u);
}

// Rank 2's late submission crosses the end of the join: now everybody must submit it.
TEST(Join, ALateSubmissionThatCrossesTheEndIsTakenBack) {
  NegotiatorTree tree(4);
  for (const int rank : {1, 2, 3}) tree.Submit(rank, Join());
  tree.Settle();
  tree.Submit(0, Join());
  tree.Take(0);                    // agreed, and on its way
  tree.Submit(2, Allreduce("x"));  // rank 1 would pass it on without itself
  tree.Settle();
  ASSERT_EQ(tree.outcome(2).executed.size(), 1u);
  EXPECT_EQ(tree.outcome(2).executed[0].params.kind, OpKind::kJoin);
  for (const int rank : {0, 1, 3}) {
    EXPECT_EQ(tree.outcome(2).executed.size(), 1u);
    tree.Submit(rank, Allreduce("x"));
    tree.Settle();
  }
  for (int rank = 0; rank < 4; ++rank) {
    ASSERT_EQ(tree.outcome(rank).executed.size(), 2u);
    EXPECT_TRUE(tree.outcome(rank).executed[1].absent.empty());
    EXPECT_TRUE(tree.outcome(rank).failure.ok());
  }
}

TEST(Join, ALeaverEndsEverybodysJoin) {
  NegotiatorTree tree(3);
  for (const int rank : {1, 2}) tree.Submit(rank, Join());
  tree.Settle();
  tree[2].Leave();
  tree.Settle();
  for (const int rank : {1, 2}) {
    EXPECT_EQ(tree.outcome(rank).rejected.at(std::string(kJoinName)).code(), StatusCode::kShutDown);
  }
  EXPECT_TRUE(tree[0].closed());
}

TEST(Join, JoinedRanksAreNotMissing) {
  NegotiatorTree tree(4);
  tree.Submit(0, Join());
  tree.Submit(3, Join());
  tree.Submit(1, Allreduce("x"));
  tree.Advance(seconds(11));
  const auto& stalled = tree.outcome(3).stalled;
  ASSERT_EQ(stalled.size(), 2u);  // the join, and what rank 2 keeps waiting
  for (const StallSummary& summary : stalled) {
    EXPECT_EQ(summary.missing, summary.name == "x" ? Ranks({2}) : Ranks({1, 2}));
    EXPECT_EQ(summary.submitted, summary.name == "x" ? Ranks({1}) : Ranks({0, 3}));
  }
}

TEST(Join, WaitingWhileOthersGoOnIsNoStall) {
  NegotiatorTree tree(3);
  tree.Submit(2, Join());
  for (int step = 0; step < 100; ++step) {
    for (const int rank : {0, 1}) tree.Submit(rank, Allreduce("x"));
    tree.Settle();
    tree.Advance(seconds(8));
  }
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_TRUE(tree.outcome(rank).stalled.empty());
    EXPECT_TRUE(tree.outcome(rank).failure.ok());
  }
  tree.Advance(seconds(301));  // nobody does anything any more
  EXPECT_EQ(tree.outcome(0).failure.code(), StatusCode::kStalled);
  EXPECT_NE(tree.outcome(0).failure.message().find("ranks 0-1 never submitted join"),
            std::string::npos);
}

}  // namespace
}  // namespace hora
