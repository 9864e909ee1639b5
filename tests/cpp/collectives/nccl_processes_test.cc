// Ranks as processes over the fake NCCL, as they are in a job.
#include <poll.h>

#include <cstdio>

#include "collectives/nccl_ranks.h"
#include "control/forked_child.h"

namespace hora {
namespace {

constexpr int kRanks = 2;

// How rank 0's text comes to rank 1: made before the fork.
class SharingPipe {
 public:
  SharingPipe() { EXPECT_EQ(pipe(ends_), 0); }
  SharingPipe(const SharingPipe&) = delete;
  SharingPipe& operator=(const SharingPipe&) = delete;
  ~SharingPipe() {
    close(ends_[0]);
    close(ends_[1]);
  }

  ShareId Of(int rank) const {
    return [this, rank](const std::string& mine, TimePoint deadline) -> Result<std::string> {
      if (rank == 0) {
        const auto size = static_cast<ssize_t>(mine.size());
        EXPECT_EQ(write(ends_[1], mine.data(), mine.size()), size);
        return mine;
      }
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
          deadline - SteadyClock::Instance().Now());
      pollfd ready{.fd = ends_[0], .events = POLLIN, .revents = 0};
      if (poll(&ready, 1, static_cast<int>(left.count())) != 1) {
        return Fail(Error(StatusCode::kTimeout, "rank 0 shares nothing"));
      }
      std::string text(kMaxSharedIdBytes, '\0');
      text.resize(static_cast<std::size_t>(read(ends_[0], text.data(), text.size())));
      return text;
    };
  }

 private:
  int ends_[2] = {-1, -1};
};

// This process's rank of the group.
class OwnRank final : public BackendGroup {
 public:
  OwnRank(int rank, const SharingPipe& pipe, std::function<Status()> lost = {}) : rank_(rank) {
    auto made = NcclCommunicator::Create(FakeNccl(), pipe.Of(rank),
                                         {.rank = rank,
                                          .size = kRanks,
                                          .names = {},
                                          .name = "all",
                                          .patience = kNcclPatience,
                                          .lost = std::move(lost)});
    EXPECT_TRUE(made) << made.error().ToString();
    own_ = std::make_unique<NcclOnHost>(device_, std::move(made).value());
  }

  int size() const override { return kRanks; }
  std::vector<int> ranks() const override { return {rank_}; }
  NcclOnHost& backend(int) override { return *own_; }
  Status Await() { return own_->Await(); }

 private:
  const int rank_;
  const std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>();
  std::unique_ptr<NcclOnHost> own_;
};

int Outcome() {
  std::fflush(nullptr);  // what was expected in vain
  return testing::Test::HasFailure() ? 1 : 0;
}

TEST(NcclProcesses, DoWhatEveryBackendDoes) {
  const SharingPipe pipe;
  const auto run = [&pipe](int rank) {
    {
      OwnRank own(rank, pipe);
      const Conformance conformance{
          .in_rank_order = false, .every_reduction = false, .edges = {40000}};
      ExpectAllreduces(own, conformance);
      ExpectAllgathers(own, conformance);
      ExpectAlltoalls(own, conformance);
      EXPECT_GT(FakeNcclControls().operations, 10);
    }
    EXPECT_EQ(FakeNcclControls().communicators, 0);
    return Outcome();
  };
  ForkedChild first([&] { return run(0); });
  ForkedChild second([&] { return run(1); });
  EXPECT_EQ(first.Join(), 0);
  EXPECT_EQ(second.Join(), 0);
}

Status Sum(OwnRank& own, int rank, float& value) {
  const ByteStream stream({std::as_writable_bytes(std::span(&value, 1))});
  CollectiveCall call =
      AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), kRanks, stream, stream);
  call.params.device.type = DeviceType::kCuda;
  call.stream = own.backend(rank).stream();
  return own.backend(rank).backend().Execute(call);
}

// NCCL says nothing of a peer on the same host that is gone: hora's own heartbeat does, by `lost`.
TEST(NcclProcesses, APeerThatIsKilledIsNoticed) {
  const SharingPipe pipe;
  const Signal summed;
  ForkedChild peer([&] {
    OwnRank own(1, pipe);
    float value = 2;
    EXPECT_TRUE(Sum(own, 1, value).ok());
    EXPECT_TRUE(own.Await().ok());
    EXPECT_EQ(value, 3);
    summed.Give();
    while (true) pause();
    return 0;
  });
  OwnRank own(0, pipe, [pid = peer.pid()] {
    siginfo_t ended{};
    const int asked = waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOHANG | WNOWAIT);
    return asked == 0 && ended.si_pid == pid
               ? Error(StatusCode::kPeerFailed, "rank 1 was killed by signal {}", ended.si_status)
               : Status::Ok();
  });
  float value = 1;
  EXPECT_TRUE(Sum(own, 0, value).ok());
  summed.Take();
  EXPECT_TRUE(own.Await().ok());
  EXPECT_EQ(value, 3);

  EXPECT_TRUE(Sum(own, 0, value).ok());  // which the peer never joins
  EXPECT_TRUE(own.backend(0).backend().Check().ok());
  peer.Kill();
  Status status;
  const TimePoint deadline = SteadyClock::Instance().Now() + kNcclPatience;
  while (status.ok() && SteadyClock::Instance().Now() < deadline) {
    status = own.backend(0).backend().Check();
  }
  EXPECT_EQ(status.code(), StatusCode::kPeerFailed);
  EXPECT_NE(status.message().find("rank 1 was killed by signal 9"), std::string::npos)
      << status.message();
  EXPECT_TRUE(own.Await().ok()) << "the stream still hangs";
}

}  // namespace
}  // namespace hora
