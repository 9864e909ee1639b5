// The simulation is worth as much as its checker: each kind of wrong history is found.
#include "sim/ledger.h"

#include <gtest/gtest.h>

#include "sim/workload.h"

namespace hora::sim {
namespace {

class LedgerTest : public testing::Test {
 protected:
  LedgerTest()
      : workload_({.seed = 1, .size = 2, .names = 2, .rounds = 2, .change_one_in = 0}),
        ledger_(2) {}

  std::string Name(int name) const { return workload_.NameOf(name); }
  Request Ask(int name, int rank) const { return workload_.Ask(name, 0, rank); }
  Response Good(int name) const {
    Response response{.name = Name(name), .params = Ask(name, 0).params};
    for (int rank = 0; rank < 2; ++rank) {
      for (const std::int64_t rows : Ask(name, rank).first_dims)
        response.first_dims.push_back(rows);
    }
    return response;
  }
  void Submit(Ledger& ledger, int name) {
    for (int rank = 0; rank < 2; ++rank) ledger.Submitted(rank, Ask(name, rank));
  }
  void SubmitAll() {
    for (int name = 0; name < 2; ++name) Submit(ledger_, name);
  }

  Workload workload_;
  Ledger ledger_;
};

TEST_F(LedgerTest, AGoodHistoryPasses) {
  SubmitAll();
  for (int rank = 0; rank < 2; ++rank) {
    for (int name = 0; name < 2; ++name) ledger_.Executed(rank, Good(name));
  }
  ledger_.Finish();
  EXPECT_EQ(ledger_.violation(), "");
}

TEST_F(LedgerTest, FindsADuplicatedExecution) {
  SubmitAll();
  ledger_.Executed(0, Good(0));
  ledger_.Executed(0, Good(0));
  EXPECT_EQ(ledger_.violation(), "'layer.0.weight' counts on rank 0, which has not submitted it");
}

TEST_F(LedgerTest, FindsAnotherOrder) {
  SubmitAll();
  ledger_.Executed(0, Good(0));
  ledger_.Executed(1, Good(1));
  EXPECT_NE(ledger_.violation().find("as number 0, where another rank has"), std::string::npos);
}

TEST_F(LedgerTest, FindsWrongParametersAndMissedErrors) {
  SubmitAll();
  Response wrong = Good(0);
  wrong.params.dtype = DType::kInt8;
  ledger_.Executed(0, wrong);
  EXPECT_EQ(ledger_.violation(), "'layer.0.weight' has other parameters than were submitted");

  Ledger second(2);
  Submit(second, 0);
  Response failed = Good(0);
  failed.error = Status(StatusCode::kMismatch, "?");
  second.Executed(0, failed);
  EXPECT_NE(second.violation().find("instead of"), std::string::npos);
}

TEST_F(LedgerTest, FindsDeadlocksAndLostExecutions) {
  ledger_.Submitted(1, Ask(0, 1));
  ledger_.Finish();
  EXPECT_EQ(ledger_.violation(),
            "deadlock: nothing happens any more, yet rank 1 waits for 'layer.0.weight'");

  Ledger second(2);
  Submit(second, 0);
  second.Executed(0, Good(0));
  second.Rejected(1, Name(0), Status(StatusCode::kShutDown, "gone"));
  second.Finish();
  EXPECT_EQ(second.violation(), "rank 1 has executed 0 of 1 responses");
}

TEST_F(LedgerTest, FindsDoubleEndsAndDifferentCaches) {
  ledger_.Submitted(0, Ask(0, 0));
  ledger_.Rejected(0, Name(0), Status(StatusCode::kShutDown, "gone"));
  EXPECT_TRUE(ledger_.ok());
  ledger_.Rejected(0, Name(0), Status(StatusCode::kShutDown, "gone"));
  EXPECT_FALSE(ledger_.ok());

  Ledger second(2);
  ResponseCache cache(2);
  cache.Insert(std::make_shared<const Response>(Good(0)));
  second.Cached(0, 1, cache);
  second.Cached(1, 1, cache);
  EXPECT_TRUE(second.ok());
  cache.Insert(std::make_shared<const Response>(Good(1)));
  second.Cached(1, 1, cache);
  EXPECT_EQ(second.violation(), "rank 1 has another cache than others after 1 agreements");
}

TEST_F(LedgerTest, FindsWhoIsWronglyAbsentOrPresent) {
  const Request join{.name = std::string(kJoinName), .params = {.kind = OpKind::kJoin}};
  Response alone = Good(0);
  alone.absent = RankSet::Of(1);
  ledger_.Submitted(0, Ask(0, 0));
  ledger_.Executed(0, alone);
  EXPECT_EQ(ledger_.violation(), "'layer.0.weight' leaves out rank 1, which has not joined");

  Ledger second(2);
  second.Submitted(0, Ask(0, 0));
  second.Executed(0, Good(0));
  EXPECT_EQ(second.violation(), "'layer.0.weight' counts on rank 1, which has not submitted it");

  Ledger third(2);
  Submit(third, 0);
  third.Submitted(1, join);
  third.Executed(0, alone);
  EXPECT_EQ(third.violation(),
            "'layer.0.weight' leaves out rank 1, which submitted it before it joined");

  Ledger fourth(2);
  fourth.Submitted(1, join);
  Submit(fourth, 0);  // rank 1 does so too late
  fourth.Executed(0, alone);
  fourth.Executed(1, alone);
  EXPECT_EQ(fourth.violation(), "");
  EXPECT_TRUE(fourth.IsPending(1, Name(0)));
}

TEST_F(LedgerTest, FindsWhoIsTunedElsewhere) {
  SubmitAll();
  ledger_.Tuned(0, {.chunk_bytes = 1});
  ledger_.Executed(0, Good(0));
  ledger_.Executed(1, Good(0));
  ledger_.Tuned(1, {.chunk_bytes = 1});
  EXPECT_NE(ledger_.violation().find("rank 1 is tuned before response 1"), std::string::npos);
}

}  // namespace
}  // namespace hora::sim
