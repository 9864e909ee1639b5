#include "hora/negotiation/negotiator.h"

#include <gtest/gtest.h>

#include "hora/base/check.h"
#include "negotiation/negotiator_tree.h"

namespace hora {
namespace {

std::vector<std::string> Names(const std::vector<Response>& responses) {
  std::vector<std::string> names;
  for (const Response& response : responses) names.push_back(response.name);
  return names;
}

TEST(Negotiator, AloneAgreesAtOnce) {
  NegotiatorTree tree(1);
  tree.Submit(0, Allreduce("w"));
  EXPECT_EQ(tree[0].pending_count(), 1u);
  tree.Settle();
  ASSERT_EQ(tree.outcome(0).executed.size(), 1u);
  EXPECT_EQ(tree.outcome(0).executed[0].params, Allreduce("w").params);
  EXPECT_EQ(tree[0].pending_count(), 0u);
  EXPECT_EQ(tree.outcome(0).messages_sent, 0);
}

TEST(Negotiator, AgreesWhenTheLastRankHasSubmitted) {
  NegotiatorTree tree(7);
  for (int rank = 0; rank < 6; ++rank) tree.Submit(rank, Allreduce("w"));
  tree.Settle();
  for (int rank = 0; rank < 7; ++rank) EXPECT_TRUE(tree.outcome(rank).executed.empty());
  tree.Submit(6, Allreduce("w"));
  tree.Settle();
  for (int rank = 0; rank < 7; ++rank) {
    EXPECT_EQ(Names(tree.outcome(rank).executed), std::vector<std::string>{"w"});
    EXPECT_EQ(tree[rank].cached_count(), 1u);
  }
}

TEST(Negotiator, ExecutesInOneOrderWhateverTheOrderOfSubmission) {
  NegotiatorTree tree(3);
  for (const char* name : {"a", "b", "c"}) tree.Submit(0, Allreduce(name));
  for (const char* name : {"c", "a", "b"}) tree.Submit(1, Allreduce(name));
  for (const char* name : {"b", "c", "a"}) tree.Submit(2, Allreduce(name));
  tree.Settle();
  ASSERT_EQ(tree.outcome(0).executed.size(), 3u);
  EXPECT_EQ(tree.outcome(1).executed, tree.outcome(0).executed);
  EXPECT_EQ(tree.outcome(2).executed, tree.outcome(0).executed);
}

// How many agreements come together is up to timing; batches must not depend on it.
TEST(Negotiator, SaysWhereEachAgreementEnds) {
  NegotiatorTree tree(2);
  std::vector<ControlMessage> to_child;
  NegotiatorActions actions;
  for (const char* name : {"a", "b"}) {
    tree.Submit(0, Allreduce(name));
    tree.Submit(1, Allreduce(name));
    tree[1].Take(actions);
    for (auto& sent : actions.send) tree[0].Receive(1, std::move(sent.message), tree.now());
    tree[0].Take(actions);
    EXPECT_EQ(actions.agreement_ends, std::vector<std::size_t>{1});
    for (auto& sent : actions.send) to_child.push_back(std::move(sent.message));
  }
  for (ControlMessage& message : to_child) tree[1].Receive(0, std::move(message), tree.now());
  tree[1].Take(actions);
  ASSERT_EQ(actions.execute.size(), 2u);
  EXPECT_EQ(actions.execute[0]->name, "a");
  EXPECT_EQ(actions.execute[1]->name, "b");
  EXPECT_EQ(actions.agreement_ends, (std::vector<std::size_t>{1, 2}));
}

// What comes with a submission comes back with its end, and a repeat shares the cached response.
TEST(Negotiator, GivesEntriesBackAndSharesRepeats) {
  Negotiator negotiator({.position = TreePosition::Of(0, 1, 2)});
  NegotiatorActions actions;
  int somewhere[3];
  const auto entry = [&](int i) { return reinterpret_cast<TensorEntry*>(&somewhere[i]); };
  negotiator.Submit(Allreduce("a"), TimePoint(), entry(0));
  negotiator.Take(actions);
  ASSERT_EQ(actions.execute.size(), 1u);
  EXPECT_EQ(actions.execute[0].entry, entry(0));
  const SharedResponse first = actions.execute[0].response;
  negotiator.Submit(Allreduce("a"), TimePoint(), entry(1));
  negotiator.Submit(Allreduce(std::string(5000, 'x')), TimePoint(), entry(2));
  negotiator.Take(actions);
  ASSERT_EQ(actions.execute.size(), 1u);
  EXPECT_EQ(actions.execute[0].entry, entry(1));
  EXPECT_EQ(actions.execute[0].response, first);
  ASSERT_EQ(actions.reject.size(), 1u);
  EXPECT_EQ(actions.reject[0].entry, entry(2));
  // Parameters that do not matter for the kind make no difference.
  Request odd = Allreduce("a");
  odd.params.root_rank = 3;
  negotiator.Submit(odd, TimePoint(), entry(0));
  negotiator.Take(actions);
  EXPECT_EQ(actions.execute[0].response, first);
}

TEST(Negotiator, ARepeatedTensorIsOneBitInOneMessagePerEdge) {
  NegotiatorTree tree(2);
  for (int i = 0; i < 161; ++i) tree.SubmitEverywhere(Allreduce("grad." + std::to_string(i)));
  tree.Settle();
  tree.outcome(0).messages_sent = tree.outcome(1).messages_sent = 0;

  for (int i = 0; i < 161; ++i) tree.Submit(1, Allreduce("grad." + std::to_string(i)));
  NegotiatorActions actions;
  tree[1].Take(actions);
  ASSERT_EQ(actions.send.size(), 1u);
  const auto& readiness = std::get<Readiness>(actions.send[0].message);
  EXPECT_EQ(readiness.cached.count(), 161);
  EXPECT_TRUE(readiness.requests.empty());
  EXPECT_EQ(readiness.agreements_seen, tree[1].agreement_count());
  EXPECT_FALSE(actions.send[0].urgent);
}

TEST(Negotiator, AllgatherCarriesTheRowsOfEveryRankAndNoticesNewOnes) {
  NegotiatorTree tree(5);
  for (int rank = 0; rank < 5; ++rank) tree.Submit(rank, Allgather("x", rank + 1));
  tree.Settle();
  EXPECT_EQ(tree.outcome(4).executed.at(0).first_dims, (std::vector<std::int64_t>{1, 2, 3, 4, 5}));
  // Rank 3 changes its mind; the others send a bit, which is expanded on the way.
  for (int rank = 0; rank < 5; ++rank) tree.Submit(rank, Allgather("x", rank == 3 ? 9 : rank + 1));
  tree.Settle();
  for (int rank = 0; rank < 5; ++rank) {
    ASSERT_EQ(tree.outcome(rank).executed.size(), 2u);
    EXPECT_EQ(tree.outcome(rank).executed[1].first_dims,
              (std::vector<std::int64_t>{1, 2, 3, 9, 5}));
  }
}

TEST(Negotiator, AGroupIsOneNameWithRowsOfEveryTensor) {
  NegotiatorTree tree(3);
  const auto ask = [](int rank, std::int64_t second) {
    Request group = Allgather("g", rank);
    group.params.rest = {{DType::kInt8, {7, 2}}};  // the first dimension means nothing
    group.first_dims.push_back(second);
    return group;
  };
  for (const std::int64_t last : {5, 5, 6}) {
    for (int rank = 0; rank < 3; ++rank) tree.Submit(rank, ask(rank, rank == 2 ? last : 1));
    tree.Settle();
    const Response& response = tree.outcome(1).executed.back();
    EXPECT_EQ(response.params.rest.at(0).shape, (Shape{0, 2}));
    EXPECT_EQ(response.first_dims, (std::vector<std::int64_t>{0, 1, 1, 1, 2, last}));
  }
  tree.Submit(2, ask(2, 6));  // the same again is a bit
  NegotiatorActions actions;
  tree[2].Take(actions);
  EXPECT_EQ(std::get<Readiness>(actions.send.at(0).message).cached.count(), 1);
}

TEST(Negotiator, AlltoallsOfAnyRowsAreTheSame) {
  NegotiatorTree tree(2);
  for (int round = 0; round < 2; ++round) {
    for (int rank = 0; rank < 2; ++rank) {
      tree.Submit(rank, {.name = "a",
                         .params = {.kind = OpKind::kAlltoall, .shape = {4 * round + rank, 3}}});
    }
    tree.Settle();
    const Response& response = tree.outcome(0).executed.back();
    EXPECT_TRUE(response.error.ok());
    EXPECT_EQ(response.params.shape, (Shape{0, 3}));
    EXPECT_TRUE(response.first_dims.empty());
    EXPECT_EQ(tree[0].agreement_count(), static_cast<std::uint64_t>(round + 1));
  }
}

TEST(Negotiator, ANewTuningHoldsFromTheSameResponseOnEverywhere) {
  NegotiatorTree tree(3);
  tree[0].Retune({.chunk_bytes = 1});
  tree[0].Retune({.chunk_bytes = 2});
  tree.Settle();
  for (int rank = 0; rank < 3; ++rank) EXPECT_TRUE(tree.outcome(rank).tunings.empty());
  tree.SubmitEverywhere(Allreduce("x"));
  tree.Settle();
  tree.SubmitEverywhere(Allreduce("x"));
  tree.Settle();
  tree[0].Retune({.chunk_bytes = 3});
  tree.SubmitEverywhere(Allreduce("x"));
  tree.Settle();
  for (int rank = 0; rank < 3; ++rank) {
    const auto& tunings = tree.outcome(rank).tunings;
    ASSERT_EQ(tunings.size(), 2u);
    EXPECT_EQ(tunings[0], std::pair(std::size_t{0}, Tuning{.chunk_bytes = 2}));
    EXPECT_EQ(tunings[1], std::pair(std::size_t{2}, Tuning{.chunk_bytes = 3}));
  }
  EXPECT_THROW(tree[1].Retune({}), InvariantError);
}

TEST(Negotiator, TextsNameRanksByTheirNumberInTheJob) {
  NegotiatorTree tree(2, {.names = RankNames({4, 9})});
  tree.Submit(0, Broadcast("b", 0));
  tree.Submit(1, Broadcast("b", 1));
  tree.Settle();
  EXPECT_EQ(tree.outcome(0).executed.at(0).error.message(),
            "broadcast 'b': ranks disagree on root rank: rank 4: 4; rank 9: 9. Submit the same "
            "root rank on every rank.");
  tree.Submit(0, Allreduce("x"));
  tree[1].Receive(0, Leave{9}, tree.now());
  tree.Settle();
  EXPECT_EQ(tree.outcome(1).failure.message(),
            "rank 9 cannot follow the negotiation with rank 4: rank 9 has left");
  NegotiatorTree other(2, {.names = RankNames({4, 9})});
  other.Submit(0, Allreduce("x"));
  other[1].Leave();
  other.Settle();
  EXPECT_EQ(other.outcome(0).rejected.at("x").message().substr(0, 45),
            "rank 9 has shut down while allreduce 'x' was ");
}

TEST(Negotiator, AMismatchIsAnErrorOnEveryRankAndNothingElse) {
  NegotiatorTree tree(4);
  for (int round = 0; round < 2; ++round) {  // uncached, then against a cached response
    for (int rank = 0; rank < 4; ++rank) {
      tree.Submit(rank, Allreduce("grad.w", rank == 1 ? Shape{3, 2} : Shape{2, 3}));
    }
    tree.Settle();
    for (int rank = 0; rank < 4; ++rank) {
      const Response& last = tree.outcome(rank).executed.back();
      EXPECT_EQ(last.error.code(), StatusCode::kMismatch);
      EXPECT_EQ(
          last.error.message(),
          "allreduce 'grad.w': ranks disagree on shape: ranks 0, 2-3: [2, 3]; rank 1: [3, 2]. "
          "Submit the same shape on every rank.");
      EXPECT_TRUE(tree.outcome(rank).failure.ok());
      EXPECT_EQ(tree[rank].cached_count(), 0u);
      EXPECT_EQ(tree[rank].pending_count(), 0u);
    }
    tree.SubmitEverywhere(Allreduce("grad.w", {2, 3}));
    tree.Settle();
    EXPECT_TRUE(tree.outcome(3).executed.back().error.ok());
    EXPECT_EQ(tree[3].cached_count(), 1u);
  }
}

TEST(Negotiator, AnImpossibleRequestIsRejectedWhereItIsMade) {
  NegotiatorTree tree(2);
  Request request = Allreduce("w");
  request.params.prescale = std::numeric_limits<double>::quiet_NaN();
  tree.Submit(1, request);
  tree.Settle();
  EXPECT_EQ(tree.outcome(1).rejected.at("w").code(), StatusCode::kInvalidArgument);
  tree.SubmitEverywhere(Allreduce("w"));
  tree.Settle();
  EXPECT_EQ(tree.outcome(0).executed.size(), 1u);
}

TEST(Negotiator, LeavingRejectsWhatIsPendingAndWhatComesLater) {
  NegotiatorTree tree(7);
  for (int rank = 0; rank < 7; ++rank) {
    if (rank != 5) tree.Submit(rank, Allreduce("x"));
  }
  tree.Settle();
  tree[5].Leave();
  EXPECT_TRUE(tree[5].closed());
  tree.Settle();
  for (int rank = 0; rank < 7; ++rank) {
    EXPECT_TRUE(tree[rank].closed());
    if (rank == 5) continue;
    EXPECT_EQ(tree.outcome(rank).rejected.at("x").message(),
              "rank 5 has shut down while allreduce 'x' was waiting for it. Let every rank submit "
              "the same operations before it shuts down.");
    tree.Submit(rank, Allreduce("y"));
    tree.Settle();
    EXPECT_EQ(tree.outcome(rank).rejected.at("y").code(), StatusCode::kShutDown);
    EXPECT_TRUE(tree.outcome(rank).failure.ok());
  }
}

TEST(Negotiator, WhatIsReadyWhenARankLeavesIsStillDone) {
  NegotiatorTree tree(3);
  tree.SubmitEverywhere(Allreduce("x"));
  tree[1].Leave();
  EXPECT_FALSE(tree[1].closed());
  tree.Settle();
  // Rank 2's report was not there yet when the root heard of the shutdown, or it was: the same
  // everywhere.
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_TRUE(tree[rank].closed());
    EXPECT_EQ(Names(tree.outcome(rank).executed), Names(tree.outcome(0).executed));
    EXPECT_EQ(tree.outcome(rank).executed.size() + tree.outcome(rank).rejected.size(), 1u);
  }
}

TEST(Negotiator, AFailureReachesEveryRankOnce) {
  NegotiatorTree tree(7);
  tree[4].Fail(Status(StatusCode::kResource, "rank 4: no memory"));
  tree.Settle();
  for (int rank = 0; rank < 7; ++rank) {
    EXPECT_EQ(tree.outcome(rank).failure.message(), "rank 4: no memory");
    tree.Submit(rank, Allreduce("x"));
    tree.Settle();
    EXPECT_EQ(tree.outcome(rank).rejected.at("x").code(), StatusCode::kResource);
  }
}

}  // namespace
}  // namespace hora
