// Communicators of the fake NCCL that go wrong: what their tests share.
#pragma once

#include <future>

#include "collectives/nccl_ranks.h"
#include "support/awaiting.h"

namespace hora {

using Made = Result<std::unique_ptr<NcclCommunicator>>;
using nccl::Api;
using nccl::Comm;
using nccl::DataType;
using nccl::RedOp;

inline constexpr Duration kShort = std::chrono::milliseconds(30);
inline constexpr int kForEver = 1 << 30;  // answers

inline NcclCommunicatorOptions OptionsOf(int rank, int size, Duration patience = kNcclPatience) {
  return {.rank = rank,
          .size = size,
          .device = 3,
          .names = RankNames({7, 9, 11, 13}),
          .name = "pairs",
          .patience = patience,
          .lost = {}};
}

class NcclCommunicatorTest : public testing::Test {
 protected:
  void TearDown() override {
    control_.faults.Clear();
    control_.polls = 0;
    EXPECT_TRUE(Comes([&] { return control_.communicators == 0; }));
    EXPECT_EQ(control_.registrations, 0);
    EXPECT_EQ(control_.late, 0);
  }

  Made Create(const NcclCommunicatorOptions& options) {
    return NcclCommunicator::Create(
        FakeNccl(), OverStore(store_, "id", options.rank == 0, options.lost), options);
  }
  std::vector<std::future<Made>> BeginAll(const std::vector<NcclCommunicatorOptions>& all) {
    std::vector<std::future<Made>> making;
    for (const NcclCommunicatorOptions& options : all) {
      making.push_back(std::async(std::launch::async, [this, options] { return Create(options); }));
    }
    return making;
  }
  int aborts() const { return control_.aborts - aborts_before_; }
  bool HaveAborted(int count) const {  // in a moment: nobody waits for it
    return Comes([&] { return aborts() >= count; }) && aborts() == count;
  }

  FakeNcclControl& control_ = FakeNcclControls();
  const int aborts_before_ = control_.aborts;
  const std::shared_ptr<MemoryStore> store_ = std::make_shared<MemoryStore>();
};

// A group and a stream of each rank, on which it sums one number.
class NcclSums : public NcclCommunicatorTest {
 protected:
  // However long it takes: only what the test is about may be short.
  void Make(int size) {
    std::vector<NcclCommunicatorOptions> all;
    for (int rank = 0; rank < size; ++rank) {
      all.push_back(OptionsOf(rank, size));
      all.back().call_patience = call_patience_;
      all.back().farewell = rank == 0 ? farewell_of_0_.value_or(farewell_) : farewell_;
      all.back().enter = [this] { ++ends_; };
      all.back().lost = [this] {
        return lost_ ? Error(StatusCode::kPeerFailed, "rank 13 has died") : Status::Ok();
      };
      streams_.push_back(OwnedStream::Create(device_, 0, false).value());
    }
    values_.assign(static_cast<std::size_t>(size), 1);
    for (auto& one : BeginAll(all)) {
      Made made = one.get();
      ASSERT_TRUE(made) << made.error().ToString();
      ranks_.push_back(std::move(*made));
    }
  }
  void TearDown() override {
    ranks_.clear();
    streams_.clear();
    NcclCommunicatorTest::TearDown();
  }

  Status PutSum(int rank) { return PutSum(*ranks_[rank], rank); }
  Status PutSum(NcclCommunicator& on, int rank) {
    return on.Enqueue("allreduce", [&](const Api& api, Comm comm) {
      float* const value = &values_[rank];
      return api.all_reduce(value, value, 1, DataType::kFloat32, RedOp::kSum, comm,
                            streams_[rank].get().native);
    });
  }
  Status AwaitStream(int rank) {
    const DeviceEvent end = device_->CreateEvent(0).value();
    Status status = device_->Record(end, streams_[rank].get());
    if (status.ok()) status = device_->Await(end, InTheEnd());
    device_->Destroy(end);
    return status;
  }
  Status AwaitFailure(int rank) {
    Status status;
    EXPECT_TRUE(Comes([&] { return !(status = ranks_[rank]->Check()).ok(); }));
    return status;
  }

  std::atomic<bool> lost_ = false;
  std::optional<Duration> call_patience_;
  Duration farewell_ = kNcclPatience;
  std::optional<Duration> farewell_of_0_;
  std::atomic<int> ends_ = 0;  // threads that have come to an end of a communicator
  const std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>();
  std::vector<OwnedStream> streams_;
  std::vector<float> values_;
  std::vector<std::unique_ptr<NcclCommunicator>> ranks_;
};

}  // namespace hora
