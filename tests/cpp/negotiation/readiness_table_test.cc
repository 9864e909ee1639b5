#include "hora/negotiation/readiness_table.h"

#include <gtest/gtest.h>

namespace hora {
namespace {

constexpr std::size_t kAll = 1u << 30;

RankSet Ranks(std::initializer_list<int> ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return set;
}

// The node is rank 1; its children head the subtrees {2, 3} and {4}.
ReadinessTable Table() { return ReadinessTable({{1, 2}, {2, 4}, {4, 5}}); }

Response Cached() {
  Response response;
  response.name = "w";
  response.params.kind = OpKind::kAllgather;
  response.params.shape = {0, 2};
  response.first_dims = {10, 11, 12, 13, 14, 15, 16, 17};
  return response;
}

SubtreeRequest Ask(int rank, const OpParams& params) {
  SubtreeRequest request;
  request.name = "w";
  request.variants.emplace_back();
  request.variants.back().params = params;
  request.variants.back().ranks.Add(rank);
  return request;
}

SubtreeRequest Ask(int rank, Shape shape) {
  OpParams params;
  params.shape = std::move(shape);
  return Ask(rank, params);
}

const Response kCached = Cached();

TEST(ReadinessTable, ASlotIsReadyWhenAllHaveIt) {
  ReadinessTable table = Table();
  EXPECT_TRUE(table.AddSlots(0, Ranks({1, 70})).ok());
  EXPECT_TRUE(table.AddSlots(1, Ranks({1, 70})).ok());
  EXPECT_FALSE(table.has_ready());
  EXPECT_TRUE(table.AddSlot(2, 70).ok());
  EXPECT_TRUE(table.has_ready());
  EXPECT_FALSE(table.AgreeSlots(Ranks({70})));  // not told to anybody yet
  EXPECT_EQ(table.TakeSlots(), Ranks({70}));
  EXPECT_FALSE(table.has_ready());
  EXPECT_FALSE(table.AgreeSlots(Ranks({1, 70})));
  EXPECT_FALSE(table.AddSlot(0, 70).ok());  // still the same round
  EXPECT_TRUE(table.AgreeSlots(Ranks({70})));
  EXPECT_TRUE(table.AddSlot(0, 70).ok());
  EXPECT_EQ(table.SubmittedRanks("?", 1), Ranks({1, 2, 3}));
}

TEST(ReadinessTable, ExpandingKeepsWhoHasContributed) {
  ReadinessTable table = Table();
  EXPECT_TRUE(table.AddSlot(1, 5).ok());
  table.Expand(5, kCached);
  EXPECT_TRUE(table.IsExpanded(5));
  EXPECT_FALSE(table.AddRequest(1, table.Repeat(1, kCached)).ok());
  EXPECT_TRUE(table.AddRequest(2, table.Repeat(2, kCached)).ok());
  SubtreeRequest own = Ask(1, kCached.params);
  own.variants[0].first_dims = {{1, 99}};
  EXPECT_TRUE(table.AddRequest(0, own).ok());
  EXPECT_TRUE(table.TakeSlots().empty());
  const auto requests = table.TakeRequests(kAll);
  ASSERT_EQ(requests.size(), 1u);
  ASSERT_EQ(requests[0].variants.size(), 1u);
  EXPECT_EQ(requests[0].variants[0].ranks, Ranks({1, 2, 3, 4}));
  EXPECT_EQ(requests[0].variants[0].first_dims,
            (std::vector<RankRows>{{1, 99}, {2, 12}, {3, 13}, {4, 14}}));
  EXPECT_TRUE(table.AgreeName("w", 5, {}));
  EXPECT_FALSE(table.IsExpanded(5));
}

TEST(ReadinessTable, AReadySlotExpandsToAReadyRequest) {
  ReadinessTable table = Table();
  for (int contributor = 0; contributor < 3; ++contributor) {
    EXPECT_TRUE(table.AddSlot(contributor, 5).ok());
  }
  table.Expand(5, kCached);
  table.ForgetSlot(5);
  EXPECT_FALSE(table.IsExpanded(5));
  EXPECT_TRUE(table.TakeSlots().empty());
  ASSERT_EQ(table.TakeRequests(kAll).size(), 1u);
  EXPECT_FALSE(table.has_ready());
}

TEST(ReadinessTable, ATakenSlotExpandsToATakenRequest) {
  ReadinessTable table = Table();
  for (int contributor = 0; contributor < 3; ++contributor) {
    EXPECT_TRUE(table.AddSlot(contributor, 5).ok());
  }
  table.TakeSlots();
  table.Expand(5, kCached);
  table.ForgetSlot(5);
  EXPECT_FALSE(table.has_ready());
  EXPECT_FALSE(table.AddRequest(0, table.Repeat(0, kCached)).ok());
  EXPECT_TRUE(table.AgreeName("w", -1, {}));
  EXPECT_TRUE(table.AddRequest(0, table.Repeat(0, kCached)).ok());
}

TEST(ReadinessTable, VariantsDoNotShowTheOrderOfArrival) {
  ReadinessTable forwards({{0, 1}, {1, 2}, {2, 3}});
  ReadinessTable backwards({{0, 1}, {1, 2}, {2, 3}});
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_TRUE(forwards.AddRequest(rank, Ask(rank, Shape{rank % 2})).ok());
    EXPECT_TRUE(backwards.AddRequest(2 - rank, Ask(2 - rank, Shape{rank % 2})).ok());
  }
  const auto requests = forwards.TakeRequests(kAll);
  EXPECT_EQ(requests, backwards.TakeRequests(kAll));
  EXPECT_EQ(requests[0].variants[0].ranks, Ranks({0, 2}));
}

// The slot's name goes on to be counted by requests as long as one of them is here.
TEST(ReadinessTable, WhatComesLateIsTheBeginningOfTheNextRound) {
  ReadinessTable table = Table();
  SubtreeRequest join = Ask(2, OpParams{.kind = OpKind::kJoin});
  join.name = kJoinName;
  join.variants[0].ranks.Add(3);
  table.AddJoined(2);
  table.AddJoined(3);
  EXPECT_TRUE(table.AddRequest(1, join).ok());
  table.Expand(5, kCached);
  EXPECT_TRUE(table.AddRequest(0, table.Repeat(0, kCached)).ok());
  EXPECT_TRUE(table.AddRequest(2, table.Repeat(2, kCached)).ok());
  ASSERT_EQ(table.TakeRequests(kAll).size(), 1u);
  EXPECT_TRUE(table.AddRequest(1, table.Repeat(1, kCached)).ok());
  EXPECT_FALSE(table.AddRequest(1, table.Repeat(1, kCached)).ok());
  EXPECT_FALSE(table.AgreeName("w", 5, {}));
  EXPECT_FALSE(table.AgreeName("w", 5, Ranks({2})));
  EXPECT_FALSE(table.AgreeName("w", 5, Ranks({4})));
  EXPECT_TRUE(table.AgreeName("w", 5, Ranks({2, 3, 9})));  // 9 is in another subtree
  EXPECT_TRUE(table.IsExpanded(5));
  EXPECT_EQ(table.SubmittedRanks("w", 5), Ranks({2, 3}));
  table.EndJoin();
  EXPECT_TRUE(table.AddRequest(0, table.Repeat(0, kCached)).ok());
  EXPECT_FALSE(table.has_ready());
  EXPECT_TRUE(table.AddRequest(2, table.Repeat(2, kCached)).ok());
  ASSERT_EQ(table.TakeRequests(kAll).size(), 1u);
  EXPECT_TRUE(table.AgreeName("w", 5, {}));
  EXPECT_FALSE(table.IsExpanded(5));
}

TEST(ReadinessTable, TheEndOfAJoinTakesBackParts) {
  ReadinessTable table = Table();
  table.AddJoined(3);
  table.AddJoined(4);
  SubtreeRequest join = Ask(4, OpParams{.kind = OpKind::kJoin});
  join.name = kJoinName;
  EXPECT_TRUE(table.AddRequest(2, join).ok());
  EXPECT_TRUE(table.AddRequest(0, Ask(1, Shape{2})).ok());
  EXPECT_TRUE(table.AddRequest(1, Ask(2, Shape{2})).ok());  // without rank 3
  const auto taken = table.TakeRequests(kAll);
  ASSERT_EQ(taken.size(), 1u);
  EXPECT_EQ(taken[0].variants[0].ranks, Ranks({1, 2}));
  table.EndJoin();
  EXPECT_EQ(table.SubmittedRanks("w", -1), Ranks({1}));
  SubtreeRequest whole = Ask(2, Shape{2});
  whole.variants[0].ranks.Add(3);
  EXPECT_TRUE(table.AddRequest(1, whole).ok());
  EXPECT_TRUE(table.AddRequest(2, Ask(4, Shape{2})).ok());
  EXPECT_EQ(table.TakeRequests(kAll).at(0).variants.at(0).ranks, Ranks({1, 2, 3, 4}));
}

TEST(ReadinessTable, TheJoinIsTakenLast) {
  ReadinessTable table({{0, 1}});
  table.AddJoined(0);
  SubtreeRequest join = Ask(0, OpParams{.kind = OpKind::kJoin});
  join.name = kJoinName;
  EXPECT_TRUE(table.AddRequest(0, join).ok());
  EXPECT_TRUE(table.AddRequest(0, Ask(0, Shape{1})).ok());
  EXPECT_EQ(table.TakeRequests(1).at(0).name, "w");
  EXPECT_EQ(table.TakeRequests(1).at(0).name, kJoinName);
  EXPECT_FALSE(table.has_ready());
}

TEST(ReadinessTable, LargeBatchesAreTakenInPieces) {
  ReadinessTable table({{0, 1}});
  for (int i = 0; i < 100; ++i) {
    SubtreeRequest request = Ask(0, Shape{1});
    request.name = std::to_string(i);
    EXPECT_TRUE(table.AddRequest(0, std::move(request)).ok());
  }
  std::vector<std::string> names;
  int pieces = 0;
  for (; table.has_ready(); ++pieces) {
    for (const auto& request : table.TakeRequests(2000)) names.push_back(request.name);
  }
  EXPECT_GT(pieces, 3);
  ASSERT_EQ(names.size(), 100u);
  EXPECT_EQ(names[42], "42");
}

}  // namespace
}  // namespace hora
