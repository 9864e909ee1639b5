// Messages that no correct neighbour sends: each ends in a failure that names the neighbour.
#include <gtest/gtest.h>

#include <limits>

#include "hora/negotiation/negotiator.h"
#include "negotiation/negotiator_tree.h"

namespace hora {
namespace {

SubtreeRequest From(int rank, Request request) {
  return {std::move(request.name), {{.params = request.params, .ranks = RankSet::Of(rank)}}};
}

// What `receiver` of three ranks (0 has the children 1 and 2) says to `message` from `sender`.
std::string Blamed(int receiver, int sender, ControlMessage message) {
  NegotiatorTree tree(3);
  tree.SubmitEverywhere(Allreduce("cached"));
  tree.Settle();
  tree[receiver].Receive(sender, std::move(message), tree.now());
  tree.Settle();
  const Status& failure = tree.outcome(receiver).failure;
  if (!failure.ok()) {
    EXPECT_EQ(failure.code(), StatusCode::kInternal);
    const std::string blame = "rank " + std::to_string(receiver) +
                              " cannot follow the negotiation with rank " + std::to_string(sender) +
                              ": ";
    EXPECT_EQ(failure.message().substr(0, blame.size()), blame);
    // Everybody fails with the same words.
    for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(tree.outcome(rank).failure, failure);
    return failure.message().substr(blame.size());
  }
  return "";
}

TEST(ProtocolViolation, WrongDirection) {
  EXPECT_EQ(Blamed(1, 2, Leave{2}), "it is not a neighbour in the control tree");
  EXPECT_EQ(Blamed(0, 0, Leave{0}), "it is not a neighbour in the control tree");
  EXPECT_EQ(Blamed(0, -1, Leave{0}), "it is not a neighbour in the control tree");
  EXPECT_EQ(Blamed(0, 1, Agreement{.sequence = 2}), "a child decides for its parent");
  EXPECT_EQ(Blamed(0, 1, StallProbe{.name = "x"}), "a child decides for its parent");
  EXPECT_EQ(Blamed(0, 1, StallSummary{.name = "x"}), "a child decides for its parent");
  EXPECT_EQ(Blamed(1, 0, Readiness{.agreements_seen = 1}), "a parent reports to its child");
  EXPECT_EQ(Blamed(1, 0, StallReport{.name = "x"}), "a parent reports to its child");
}

TEST(ProtocolViolation, Agreements) {
  EXPECT_EQ(Blamed(1, 0, Agreement{.sequence = 3}), "agreement 3 follows agreement 1");
  EXPECT_EQ(Blamed(1, 0, Agreement{.sequence = 2, .cached = SlotSet::Of(0)}),
            "it agrees on a cache slot that was not reported ready");
  EXPECT_EQ(Blamed(1, 0, Agreement{.sequence = 2, .cached = SlotSet::Of(100000)}),
            "it agrees on a cache slot that was not reported ready");
  EXPECT_EQ(Blamed(1, 0, Agreement{.sequence = 2, .responses = {{.name = "new"}}}),
            "it agrees on 'new', which was not reported ready");
  EXPECT_EQ(Blamed(1, 0, Agreement{.sequence = 2, .responses = {{.name = "cached"}}}),
            "it agrees on 'cached', which was not reported ready");
  EXPECT_EQ(
      Blamed(1, 0, Agreement{.sequence = 2, .responses = {{.name = "new", .first_dims = {1}}}}),
      "first dimensions of 'new'");
}

TEST(ProtocolViolation, Bits) {
  EXPECT_EQ(Blamed(0, 1, Readiness{.agreements_seen = 2}),
            "it has seen 2 agreements, after 0 and of 1");
  EXPECT_EQ(Blamed(0, 1, Readiness{.agreements_seen = 1, .cached = SlotSet::Of(1)}),
            "cache slot 1 holds nothing after 1 agreements");
  EXPECT_EQ(Blamed(0, 1, Readiness{.agreements_seen = 1, .cached = SlotSet::Of(1 << 19)}),
            "cache slot 524288 holds nothing after 1 agreements");
  EXPECT_EQ(Blamed(0, 1, Readiness{.agreements_seen = 0, .cached = SlotSet::Of(0)}),
            "cache slot 0 holds nothing after 0 agreements");
  EXPECT_EQ(Blamed(0, 1, Readiness{.agreements_seen = 1, .cached = SlotSet::Of(0)}), "");
}

TEST(ProtocolViolation, Requests) {
  const auto says = [](std::vector<SubtreeRequest> requests) {
    return Blamed(0, 1, Readiness{.agreements_seen = 1, .requests = std::move(requests)});
  };
  EXPECT_EQ(says({From(1, Allreduce("x"))}), "");
  EXPECT_EQ(says({From(2, Allreduce("x"))}),
            "'x' is requested for rank 2, not once for each of rank 1");
  EXPECT_EQ(says({From(1, Allreduce("x")), From(1, Allreduce("x"))}),
            "'x' is reported ready twice");
  SubtreeRequest both = From(1, Allreduce("x"));
  both.variants.push_back({.params = Allreduce("x", {9}).params, .ranks = RankSet::Of(1)});
  EXPECT_EQ(says({both}), "'x' is requested for rank 1, not once for each of rank 1");
  EXPECT_EQ(says({From(1, Allgather("x", 1))}), "first dimensions or kind of 'x'");
}

TEST(ProtocolViolation, Joins) {
  EXPECT_EQ(Blamed(0, 1, Joined{2}), "rank 2 has joined, which is not below it");
  EXPECT_EQ(Blamed(1, 0, Joined{0}), "a parent reports to its child");
  Request join{.name = std::string(kJoinName), .params = {.kind = OpKind::kJoin}};
  EXPECT_EQ(Blamed(0, 1, Readiness{.agreements_seen = 1, .requests = {From(1, join)}}),
            "rank 1 has not said that it joined");
  join.name = "x";
  EXPECT_EQ(Blamed(0, 1, Readiness{.agreements_seen = 1, .requests = {From(1, join)}}),
            "first dimensions or kind of 'x'");
  EXPECT_EQ(
      Blamed(1, 0,
             Agreement{.sequence = 2, .responses = {{.name = "x", .absent = RankSet::Of(1)}}}),
      "it agrees on 'x', which was not reported ready");
  EXPECT_EQ(
      Blamed(1, 0,
             Agreement{.sequence = 2, .responses = {{.name = "x", .absent = RankSet::Of(3)}}}),
      "ranks of 'x'");
  const OpParams nobody{.kind = OpKind::kJoin};
  EXPECT_EQ(Blamed(1, 0,
                   Agreement{.sequence = 2,
                             .responses = {{.name = std::string(kJoinName), .params = nobody}}}),
            "ranks of 'join.noname'");
}

TEST(ProtocolViolation, NobodyIsLeftOutWhoHasNotJoined) {
  const auto says = [](bool joined, std::initializer_list<int> ranks) {
    NegotiatorTree tree(4);  // 0 → 1 → 2
    if (joined) tree[0].Receive(1, Joined{2}, tree.now());
    RequestVariant variant{.params = Allreduce("x").params};
    for (const int rank : ranks) variant.ranks.Add(rank);
    tree[0].Receive(1, Readiness{.requests = {{"x", {variant}}}}, tree.now());
    tree.Take(0);
    return tree.outcome(0).failure.ok();
  };
  EXPECT_TRUE(says(true, {1}));
  EXPECT_TRUE(says(true, {1, 2}));
  EXPECT_TRUE(says(false, {1, 2}));
  EXPECT_FALSE(says(false, {1}));
  EXPECT_FALSE(says(true, {2}));
  EXPECT_FALSE(says(true, {}));
  EXPECT_FALSE(says(true, {1, 3}));
}

TEST(ProtocolViolation, ARankJoinsOnce) {
  NegotiatorTree tree(3);
  tree[0].Receive(1, Joined{1}, tree.now());
  tree[0].Receive(1, Joined{1}, tree.now());
  tree.Take(0);
  EXPECT_NE(tree.outcome(0).failure.message().find("rank 1 has joined, which it had before"),
            std::string::npos);
}

TEST(ProtocolViolation, TwiceInTwoMessages) {
  NegotiatorTree tree(2);
  tree.SubmitEverywhere(Allreduce("cached"));
  tree.Settle();
  const Readiness bit{.agreements_seen = 1, .cached = SlotSet::Of(0)};
  tree[0].Receive(1, bit, tree.now());
  tree[0].Receive(1, bit, tree.now());
  tree.Settle();
  EXPECT_NE(tree.outcome(0).failure.message().find("cache slot 0 is reported ready twice"),
            std::string::npos);
}

TEST(ProtocolViolation, OthersPlaces) {
  EXPECT_EQ(Blamed(0, 1, Leave{2}), "rank 2 has left, which is not below it");
  EXPECT_EQ(Blamed(1, 0, Leave{3}), "rank 3 has left");
  EXPECT_EQ(Blamed(0, 1, StallReport{.name = "x", .ranks = RankSet::Of(2)}),
            "rank 2 wait for 'x', which are not below it");
}

TEST(ProtocolViolation, NothingIsHeardAfterwards) {
  NegotiatorTree tree(2);
  tree[0].Receive(7, Leave{0}, tree.now());
  NegotiatorActions actions;
  tree[0].Take(actions);
  EXPECT_FALSE(actions.failure.ok());
  tree[0].Receive(1, Readiness{.requests = {From(1, Allreduce("x"))}}, tree.now());
  tree[0].Receive(7, Leave{0}, tree.now());
  tree[0].Take(actions);
  EXPECT_TRUE(actions.empty());
}

}  // namespace
}  // namespace hora
