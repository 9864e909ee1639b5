// How a communicator ends, and what is done where NCCL does not come to an end of it.
#include <latch>

#include "collectives/nccl_sums.h"

namespace hora {
namespace {

// --- Where nothing hangs ---

TEST_F(NcclSums, TheEndIsOrderlyWhereNothingHangs) {
  Make(2);
  EXPECT_TRUE(PutSum(0).ok());
  EXPECT_TRUE(PutSum(1).ok());
  ranks_.clear();  // waits for the streams
  EXPECT_EQ(values_, (std::vector<float>{2, 2}));
  EXPECT_EQ(aborts(), 0);
}

TEST_F(NcclSums, AnEndThatDoesNotComeIsAnAbort) {
  farewell_ = kShort;
  Make(1);
  control_.faults.hang_at = 1;
  EXPECT_TRUE(PutSum(0).ok());
  ranks_.clear();
  EXPECT_TRUE(HaveAborted(1));
  EXPECT_TRUE(AwaitStream(0).ok());
}

TEST_F(NcclSums, AnEndThatFailsIsAnAbort) {
  Make(1);
  control_.faults.fail_async_at = 1;
  device_->Hold(streams_[0].get());
  EXPECT_TRUE(PutSum(0).ok());
  device_->Release(streams_[0].get());
  ranks_.clear();
  EXPECT_TRUE(HaveAborted(1));
  EXPECT_TRUE(AwaitStream(0).ok());
}

// NCCL keeps what a CUDA graph may come back to.
TEST_F(NcclSums, AnEndWaitsForGraphsForItsPatienceAtMost) {
  farewell_ = kShort;
  Make(1);
  device_->BeginCapture(streams_[0].get());
  EXPECT_TRUE(PutSum(0).ok());
  const Result<SimulatedGraph> graph = device_->EndCapture(streams_[0].get());
  ASSERT_TRUE(graph) << graph.error().ToString();
  ranks_.clear();
  EXPECT_TRUE(HaveAborted(1));
}

TEST_F(NcclSums, AnEndIsOnAThreadOfTheDevice) {
  Make(1);
  ranks_.clear();
  EXPECT_EQ(ends_, 1);
  Make(1);
  ranks_[0]->Abort(Error(StatusCode::kShutDown, "as it is"));
  ranks_.clear();
  EXPECT_EQ(ends_, 2);
}

// --- Where NCCL does ---

class NcclHangs : public NcclSums {
 protected:
  NcclHangs() { farewell_ = kShort; }
  void TearDown() override {
    control_.faults.Clear();
    streams_.clear();  // which only the abort that was left to itself releases
    NcclSums::TearDown();
  }
};

TEST_F(NcclHangs, AnAbortIsKnownAtOnceAndLeftToItself) {
  Make(1);
  control_.faults.hang_at = 1;
  control_.faults.end.abort_hangs = true;
  EXPECT_TRUE(PutSum(0).ok());
  ranks_[0]->Abort(Error(StatusCode::kStalled, "it takes too long"));
  const Status status = ranks_[0]->Check();
  ExpectSays(status, StatusCode::kStalled, {"rank 7 ", "aborted: it takes too long"});
  EXPECT_EQ(PutSum(0), status);
  EXPECT_FALSE(ranks_[0]->End()) << "NCCL may still use what it has";
  ranks_.clear();
  EXPECT_EQ(control_.communicators, 1);
  control_.faults.end.abort_hangs = false;
  EXPECT_TRUE(AwaitStream(0).ok()) << "and if it does come to an end, all the better";
}

TEST_F(NcclHangs, AnErrorIsToldWhateverBecomesOfTheAbort) {
  Make(1);
  control_.faults.fail_at = 1;
  control_.faults.end.abort_hangs = true;
  ExpectSays(PutSum(0), StatusCode::kPeerFailed, {"rank 7 ", "system error"});
}

TEST_F(NcclHangs, WhatCheckFindsIsToldWhateverBecomesOfTheAbort) {
  Make(1);
  control_.faults.fail_async_at = 1;
  control_.faults.end.abort_hangs = true;
  device_->Hold(streams_[0].get());
  EXPECT_TRUE(PutSum(0).ok());
  device_->Release(streams_[0].get());
  ExpectSays(AwaitFailure(0), StatusCode::kPeerFailed, {"operations under way failed"});
}

TEST_F(NcclHangs, ACallIsNotWaitedForLongerThanItsPatience) {
  call_patience_ = kShort;
  Make(1);
  control_.polls = kForEver;
  control_.faults.end.abort_hangs = true;
  ExpectSays(PutSum(0), StatusCode::kTimeout, {"allreduce: not within 0.03 s"});
}

TEST_F(NcclHangs, AnOrderlyEndIsLeftToItselfToo) {
  farewell_of_0_ = kNcclPatience;
  Make(2);
  control_.faults.rank = 1;
  control_.faults.end.finalize_hangs = true;
  EXPECT_TRUE(ranks_[0]->End());
  EXPECT_FALSE(ranks_[1]->End());
  EXPECT_FALSE(ranks_[1]->End()) << "and waits no more";
  EXPECT_EQ(aborts(), 0) << "nobody else calls NCCL meanwhile";
}

TEST_F(NcclHangs, ARegistrationNeedNotWaitForThat) {
  Make(1);
  std::vector<std::byte> memory(4096);
  std::shared_ptr<void> held = ranks_[0]->Register(memory.data(), memory.size()).value();
  control_.faults.end.finalize_hangs = true;
  ranks_.clear();
  held.reset();
}

TEST_F(NcclHangs, AMakingIsNotWaitedFor) {
  NcclCommunicatorOptions options = OptionsOf(0, 2, kShort);  // alone
  options.farewell = kShort;
  control_.faults.end.abort_hangs = true;
  ExpectSays(Create(options).error(), StatusCode::kTimeout, {"cannot form a group"});
}

// What NCCL writes meanwhile is there as long as it is at it.
TEST_F(NcclHangs, APartIsNotWaitedFor) {
  call_patience_ = kShort;
  Make(1);
  control_.polls = kForEver;
  control_.faults.end.abort_hangs = true;
  ExpectSays(ranks_[0]->Split(0, OptionsOf(0, 1)).error(), StatusCode::kTimeout, {"cannot split"});
}

TEST_F(NcclHangs, WhatIsLeftOfAGroupIsNotWaitedFor) {
  call_patience_ = kShort;
  Make(2);
  control_.polls = kForEver;
  control_.faults.end.abort_hangs = true;
  ExpectSays(ranks_[0]->Shrink({1}, OptionsOf(0, 1)).error(), StatusCode::kTimeout,
             {"cannot shrink"});
}

// NCCL wants one caller at a time, in an abort, too; but nobody has to wait to learn of it.
TEST_F(NcclHangs, AnAbortWaitsForWhoeverIsInACall) {
  Make(1);
  std::latch inside(1), leaves(1);
  auto calling = std::async(std::launch::async, [&] {
    return ranks_[0]->Enqueue("nothing", [&](const Api&, Comm) {
      inside.count_down();
      leaves.wait();
      return nccl::Result::kSuccess;
    });
  });
  inside.wait();
  EXPECT_TRUE(ranks_[0]->Check().ok()) << "it does not wait either";
  ranks_[0]->Abort(Error(StatusCode::kStalled, "it takes too long"));
  ExpectSays(ranks_[0]->Check(), StatusCode::kStalled, {"it takes too long"});
  EXPECT_FALSE(ranks_[0]->End());
  EXPECT_EQ(aborts(), 0);
  leaves.count_down();
  EXPECT_TRUE(calling.get().ok()) << "was taken before";
  EXPECT_TRUE(HaveAborted(1));
}

}  // namespace
}  // namespace hora
