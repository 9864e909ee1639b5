// The simulation is worth as much as its checker: each kind of wrong history is found.
#include "sim/ledger.h"

#include <gtest/gtest.h>

namespace hora::sim {
namespace {

class LedgerTest : public testing::Test {
 protected:
  LedgerTest()
      : workload_({.seed = 1, .size = 2, .names = 2, .rounds = 2, .change_one_in = 0}),
        ledger_(workload_, 2) {}

  std::string Name(int name) const { return workload_.NameOf(name); }
  Response Good(int name) const { return workload_.Expected(name, 0); }
  void SubmitAll() {
    for (int rank = 0; rank < 2; ++rank) {
      for (int name = 0; name < 2; ++name) ledger_.Submitted(rank, Name(name));
    }
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
  EXPECT_EQ(ledger_.violation(), "rank 0 executes 'layer.0.weight', which is not pending there");
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
  EXPECT_EQ(ledger_.violation(),
            "round 0 of 'layer.0.weight' has other parameters than were submitted");

  Ledger second(workload_, 2);
  second.Submitted(0, Name(0));
  Response failed = Good(0);
  failed.error = Status(StatusCode::kMismatch, "?");
  second.Executed(0, failed);
  EXPECT_NE(second.violation().find("instead of"), std::string::npos);
}

TEST_F(LedgerTest, FindsDeadlocksAndLostExecutions) {
  ledger_.Submitted(1, Name(0));
  ledger_.Finish();
  EXPECT_EQ(ledger_.violation(),
            "deadlock: nothing happens any more, yet rank 1 waits for 'layer.0.weight'");

  Ledger second(workload_, 2);
  second.Submitted(0, Name(0));
  second.Executed(0, Good(0));
  second.Finish();
  EXPECT_EQ(second.violation(), "rank 1 has executed 0 of 1 responses");
}

TEST_F(LedgerTest, FindsDoubleEndsAndDifferentCaches) {
  ledger_.Submitted(0, Name(0));
  ledger_.Rejected(0, Name(0), Status(StatusCode::kShutDown, "gone"));
  EXPECT_TRUE(ledger_.ok());
  ledger_.Rejected(0, Name(0), Status(StatusCode::kShutDown, "gone"));
  EXPECT_FALSE(ledger_.ok());

  Ledger second(workload_, 2);
  ResponseCache cache(2);
  cache.Insert(Good(0));
  second.Cached(0, 1, cache);
  second.Cached(1, 1, cache);
  EXPECT_TRUE(second.ok());
  cache.Insert(Good(1));
  second.Cached(1, 1, cache);
  EXPECT_EQ(second.violation(), "rank 1 has another cache than others after 1 agreements");
}

}  // namespace
}  // namespace hora::sim
