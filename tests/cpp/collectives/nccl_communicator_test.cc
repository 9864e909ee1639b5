// What goes wrong while a communicator is made, works, is split; nccl_comm_test.cc has its end.
#include "collectives/nccl_sums.h"

namespace hora {
namespace {

// --- Creation ------------------------------------------------------------------------------------

TEST_F(NcclCommunicatorTest, IsMadeHoweverLongNcclIsInProgress) {
  control_.polls = 500;
  for (auto& one : BeginAll({OptionsOf(0, 2), OptionsOf(1, 2)})) {
    const Made made = one.get();
    ASSERT_TRUE(made) << made.error().ToString();
    EXPECT_TRUE((*made)->Check().ok());
  }
  EXPECT_EQ(aborts(), 0);
}

TEST_F(NcclCommunicatorTest, NobodyWaitsForAnIdThatRank0DidNotGet) {
  control_.faults.unique_id = nccl::Result::kSystemError;
  const char* rank = "rank 7 ";
  for (auto& one : BeginAll({OptionsOf(0, 2), OptionsOf(1, 2)})) {
    ExpectSays(one.get().error(), StatusCode::kPeerFailed,
               {"NCCL, ", rank, "(cuda:3) of 'pairs', ranks ",
                "cannot form a group: ", "rank 7 got no id: system error"});
    rank = "rank 9 ";
  }
}

TEST_F(NcclCommunicatorTest, WhatIsNoIdIsRefused) {
  for (const std::string told : {"", "i", "something else", "izu kurz"}) {
    const Made made = NcclCommunicator::Create(
        FakeNccl(), [&](const std::string&, TimePoint) { return told; }, OptionsOf(1, 2));
    ExpectSays(made.error(), StatusCode::kInternal, {"rank 9 ", "no id of NCCL"});
  }
}

TEST_F(NcclCommunicatorTest, AnErrorAtOnceIsWhatNcclSays) {
  control_.faults.creation = nccl::Result::kInvalidUsage;
  ExpectSays(Create(OptionsOf(0, 1)).error(), StatusCode::kInvalidArgument,
             {"invalid usage (as the test wanted)", "two ranks on one GPU"});
  control_.faults.creation = nccl::Result::kUnhandledCudaError;
  ExpectSays(Create(OptionsOf(0, 1)).error(), StatusCode::kInternal, {"NCCL_DEBUG=WARN"});
}

TEST_F(NcclCommunicatorTest, OneThatIsNotMadeInTimeIsAborted) {
  const Made made = Create(OptionsOf(0, 2, kShort));  // alone
  ExpectSays(made.error(), StatusCode::kTimeout,
             {"rank 7 ", "cannot form a group", "0.03 s", "NCCL_SOCKET_IFNAME"});
  EXPECT_TRUE(HaveAborted(1));
}

TEST_F(NcclCommunicatorTest, APeerWhoIsLostMeanwhileEndsTheMaking) {
  std::atomic<bool> lost = false;
  NcclCommunicatorOptions options = OptionsOf(0, 2);
  options.lost = [&] {
    return lost ? Error(StatusCode::kPeerFailed, "rank 9 has died") : Status::Ok();
  };
  auto making = BeginAll({options});
  EXPECT_TRUE(Comes([&] { return control_.communicators == 1; }));
  lost = true;
  ExpectSays(making[0].get().error(), StatusCode::kPeerFailed, {"rank 7 ", "rank 9 has died"});
  EXPECT_TRUE(HaveAborted(1));
}

TEST_F(NcclCommunicatorTest, TheOthersLearnByLostThatOneCouldNot) {
  control_.faults.rank = 1;
  control_.faults.creation = nccl::Result::kSystemError;
  std::atomic<bool> lost = false;
  NcclCommunicatorOptions first = OptionsOf(0, 2);
  first.lost = [&] {
    return lost ? Error(StatusCode::kPeerFailed, "rank 9 has no group") : Status::Ok();
  };
  auto making = BeginAll({first, OptionsOf(1, 2)});
  ExpectSays(making[1].get().error(), StatusCode::kPeerFailed, {"rank 9 ", "system error"});
  lost = true;
  ExpectSays(making[0].get().error(), StatusCode::kPeerFailed, {"rank 9 has no group"});
}

TEST_F(NcclCommunicatorTest, OneThatHangsInOneRankIsAborted) {
  control_.faults.creation_hangs = true;
  ExpectSays(Create(OptionsOf(0, 1, kShort)).error(), StatusCode::kTimeout, {"0.03 s"});
  EXPECT_TRUE(HaveAborted(1));
}

// --- Calls ---------------------------------------------------------------------------------------

TEST_F(NcclSums, ReturnWhenNcclHasTakenThem) {
  control_.polls = 300;
  Make(2);
  for (int i = 0; i < 3; ++i) {  // late == 0: nothing was called while one was in progress
    EXPECT_TRUE(PutSum(0).ok());
    EXPECT_TRUE(PutSum(1).ok());
  }
  EXPECT_TRUE(AwaitStream(0).ok());
  EXPECT_TRUE(AwaitStream(1).ok());
  EXPECT_EQ(values_, (std::vector<float>{8, 8}));
}

TEST_F(NcclSums, AnErrorAtOnceIsFinal) {
  Make(1);
  control_.faults.fail_at = 1;
  control_.faults.failure = nccl::Result::kInvalidArgument;
  const Status status = PutSum(0);
  ExpectSays(status, StatusCode::kInvalidArgument,
             {"rank 7 ", "allreduce: invalid argument (as the test wanted)"});
  control_.faults.Clear();
  EXPECT_EQ(PutSum(0), status);
  EXPECT_EQ(ranks_[0]->Check(), status);
  EXPECT_EQ(ranks_[0]->Split(0, OptionsOf(0, 1)).error(), status);
  EXPECT_EQ(ranks_[0]->Register(nullptr, 1).error(), status);
  EXPECT_TRUE(HaveAborted(1));
}

// A group belongs to the thread, and what follows on another communicator would fall into it.
TEST_F(NcclSums, AFailedCallLeavesNoGroupOpen) {
  Make(1);
  const auto fails = [](const Api&, Comm) { return nccl::Result::kInternalError; };
  ExpectSays(ranks_[0]->Enqueue("nothing", fails), StatusCode::kInternal, {"internal error"});
  ranks_.clear();
  streams_.clear();
  Make(1);
  const int operations = control_.operations;
  EXPECT_TRUE(PutSum(0).ok());
  EXPECT_EQ(control_.operations, operations + 1);
  EXPECT_TRUE(AwaitStream(0).ok());
}

TEST_F(NcclSums, CheckFindsWhatFailsOnTheStreamAndReleasesIt) {
  Make(2);
  control_.faults.rank = 1;
  control_.faults.fail_async_at = 1;
  control_.faults.failure = nccl::Result::kRemoteError;
  device_->Hold(streams_[1].get());  // until the call has returned, which would tell it, too
  EXPECT_TRUE(PutSum(0).ok());
  EXPECT_TRUE(PutSum(1).ok());
  device_->Release(streams_[1].get());
  ExpectSays(
      AwaitFailure(1), StatusCode::kPeerFailed,
      {"rank 9 ", "operations under way failed: remote process exited", "look at the others"});
  EXPECT_TRUE(AwaitStream(1).ok());
  EXPECT_TRUE(ranks_[0]->Check().ok()) << "NCCL does not tell this one";
  lost_ = true;
  ExpectSays(AwaitFailure(0), StatusCode::kPeerFailed, {"rank 7 ", "aborted: rank 13 has died"});
  EXPECT_TRUE(AwaitStream(0).ok());
}

TEST_F(NcclSums, AbortReleasesAStreamThatHangs) {
  Make(1);
  control_.faults.hang_at = 1;
  EXPECT_TRUE(PutSum(0).ok());
  EXPECT_TRUE(ranks_[0]->Check().ok());
  std::jthread([&] { ranks_[0]->Abort(Error(StatusCode::kStalled, "it takes too long")); }).join();
  EXPECT_TRUE(AwaitStream(0).ok());
  const Status status = ranks_[0]->Check();
  ExpectSays(status, StatusCode::kStalled, {"rank 7 ", "aborted: it takes too long"});
  ranks_[0]->Abort(Error(StatusCode::kShutDown, "again"));
  EXPECT_EQ(PutSum(0), status) << "the first cause stays";
  EXPECT_TRUE(HaveAborted(1));
}

TEST_F(NcclSums, AbortEndsACallThatIsInProgress) {
  Make(1);
  control_.polls = kForEver;
  const int operations = control_.operations;
  auto calling = std::async(std::launch::async, [&] { return PutSum(0); });
  EXPECT_TRUE(Comes([&] { return control_.operations > operations; }));
  ranks_[0]->Abort(Error(StatusCode::kStalled, "it takes too long"));
  ExpectSays(calling.get(), StatusCode::kStalled, {"aborted: it takes too long"});
}

TEST_F(NcclSums, TheEndOfTheGroupEndsACallThatIsInProgress) {
  Make(1);
  control_.polls = kForEver;
  const int operations = control_.operations;
  auto calling = std::async(std::launch::async, [&] { return PutSum(0); });
  EXPECT_TRUE(Comes([&] { return control_.operations > operations; }));
  lost_ = true;
  ExpectSays(calling.get(), StatusCode::kPeerFailed, {"rank 13 has died"});
}

TEST_F(NcclSums, ACallIsInProgressForItsPatienceAtMost) {
  call_patience_ = kShort;
  Make(1);
  control_.polls = kForEver;
  ExpectSays(PutSum(0), StatusCode::kTimeout, {"rank 7 ", "allreduce: not within 0.03 s"});
  EXPECT_TRUE(HaveAborted(1));
}

// --- Parts ---------------------------------------------------------------------------------------

TEST_F(NcclSums, APartHasTheRanksOfAColorInTheOrderOfTheirNewNumbers) {
  control_.polls = 3;
  Make(4);
  std::vector<std::future<Made>> making;
  for (int rank = 0; rank < 4; ++rank) {
    making.push_back(std::async(std::launch::async, [&, rank] {
      return ranks_[rank]->Split(rank % 2, OptionsOf(1 - rank / 2, 2));  // the other way round
    }));
  }
  std::vector<std::unique_ptr<NcclCommunicator>> parts;
  for (auto& one : making) {
    Made made = one.get();
    ASSERT_TRUE(made) << made.error().ToString();
    parts.push_back(std::move(*made));
  }
  values_ = {1, 20, 300, 4000};
  for (int rank = 0; rank < 4; ++rank) {
    const Status put = parts[rank]->Enqueue("broadcast", [&](const Api& api, Comm comm) {
      return api.broadcast(&values_[rank], &values_[rank], 1, DataType::kFloat32, 0, comm,
                           streams_[rank].get().native);
    });
    EXPECT_TRUE(put.ok()) << put.ToString();
  }
  parts.clear();
  EXPECT_EQ(values_, (std::vector<float>{300, 4000, 300, 4000}));
  for (int rank = 0; rank < 4; ++rank) EXPECT_TRUE(PutSum(rank).ok());
  ranks_.clear();
  EXPECT_EQ(values_[0], 8600) << "the whole group is still there";
  EXPECT_EQ(aborts(), 0);
}

TEST_F(NcclSums, APartThatSomebodyDoesNotMakeEndsTheGroup) {
  Make(2);
  auto making =
      std::async(std::launch::async, [&] { return ranks_[0]->Split(0, OptionsOf(0, 2)); });
  control_.faults.rank = 1;
  control_.faults.splitting = nccl::Result::kSystemError;
  ExpectSays(ranks_[1]->Split(0, OptionsOf(1, 2)).error(), StatusCode::kPeerFailed,
             {"rank 9 ", "cannot split a group: system error"});
  lost_ = true;
  ExpectSays(making.get().error(), StatusCode::kPeerFailed, {"rank 7 ", "rank 13 has died"});
  EXPECT_TRUE(HaveAborted(2));
}

TEST_F(NcclSums, APartThatHangsIsNotWaitedForLongerThanThePatience) {
  call_patience_ = kShort;
  Make(1);
  control_.polls = kForEver;
  ExpectSays(ranks_[0]->Split(0, OptionsOf(0, 1)).error(), StatusCode::kTimeout,
             {"cannot split", "0.03 s"});
  EXPECT_TRUE(HaveAborted(1)) << "the whole, of which the part was not made";
}

TEST_F(NcclSums, ThoseThatStayGoOnWithoutWhoHasLeft) {
  control_.polls = 3;
  Make(3);
  ASSERT_TRUE(PutSum(0).ok());  // which rank 1 will never join
  std::vector<std::future<Made>> making;
  for (const int rank : {0, 2}) {
    making.push_back(std::async(std::launch::async, [&, rank] {
      return ranks_[rank]->Shrink({1}, OptionsOf(rank / 2, 2));
    }));
  }
  std::vector<std::unique_ptr<NcclCommunicator>> rest;
  for (auto& one : making) {
    Made made = one.get();
    ASSERT_TRUE(made) << made.error().ToString();
    rest.push_back(std::move(*made));
  }
  EXPECT_FALSE(PutSum(2).ok()) << "the group that was is given up";
  EXPECT_TRUE(AwaitStream(0).ok());
  values_ = {1, 20, 300};
  for (const int place : {0, 1}) EXPECT_TRUE(PutSum(*rest[place], 2 * place).ok());
  rest.clear();
  EXPECT_EQ(values_, (std::vector<float>{301, 20, 301}));
  ranks_[1]->Abort(Error(StatusCode::kShutDown, "it has left"));
}

TEST_F(NcclSums, WhoLeavesDoesNotShrinkTheGroup) {
  Make(1);
  ExpectSays(ranks_[0]->Shrink({0}, OptionsOf(0, 1)).error(), StatusCode::kInvalidArgument,
             {"cannot shrink a group", "among those that leave"});
  EXPECT_TRUE(PutSum(0).ok()) << "nothing was done";
}

// --- Registrations -------------------------------------------------------------------------------

TEST_F(NcclSums, MemoryIsRegisteredAsLongAsSomebodyHoldsIt) {
  Make(1);
  std::vector<std::byte> memory(4096);
  std::shared_ptr<void> held = ranks_[0]->Register(memory.data(), memory.size()).value();
  std::shared_ptr<void> other = ranks_[0]->Register(memory.data(), 64).value();
  EXPECT_EQ(control_.registrations, 2);
  held.reset();
  EXPECT_EQ(control_.registrations, 1);
  std::jthread([&] { other.reset(); }).join();
  EXPECT_EQ(control_.registrations, 0);
  control_.faults.registration = true;
  ExpectSays(ranks_[0]->Register(memory.data(), 64).error(), StatusCode::kResource,
             {"rank 7 ", "cannot register 64 bytes: invalid usage"});
  EXPECT_TRUE(ranks_[0]->Check().ok()) << "who asked decides what becomes of the group";
}

TEST_F(NcclSums, ARegistrationMayBeGivenBackAfterTheEnd) {
  Make(2);
  std::vector<std::byte> memory(4096);
  std::shared_ptr<void> finalised = ranks_[0]->Register(memory.data(), memory.size()).value();
  std::shared_ptr<void> aborted = ranks_[1]->Register(memory.data(), memory.size()).value();
  ranks_[1]->Abort(Error(StatusCode::kShutDown, "as it is"));
  std::jthread giving([given = std::move(aborted)]() mutable { given.reset(); });
  ranks_.clear();
  EXPECT_EQ(control_.registrations, 0);
  finalised.reset();
}

}  // namespace
}  // namespace hora
