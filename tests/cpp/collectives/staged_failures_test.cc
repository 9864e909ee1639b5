// Host staging: its order among a stream's other work, devices that hang or are lost.
#include <future>
#include <semaphore>

#include "collectives/staged_ranks.h"

namespace hora {
namespace {

constexpr std::size_t kPiece = 4096;
constexpr Duration kLong = std::chrono::seconds(60);

Bytes SomeBytes(std::size_t count) { return RandomBytes(count, std::uint64_t{2026}); }

// One rank, whose stream and tensors the test has in its hands.
class OneRank {
 public:
  explicit OneRank(StagingOptions options = Patient(), Backends inner = ShmBackends(1))
      : inner_(std::move(inner[0])), options_(std::move(options)) {
    options_.piece_bytes = kPiece;
    staged_ = std::make_unique<StagedBackend>(device_, 0, pinned_, *inner_, options_);
  }

  static StagingOptions Patient() {
    StagingOptions options;
    options.patience = kLong;
    return options;
  }

  // Any kind has one stream and one total in a group of one.
  Status Execute(OpKind kind, Pieces& in, Pieces& out) {
    CollectiveCall call =
        AllreduceCall(Params(DType::kUInt8, ReduceOp::kSum), 1, in.Stream(), out.Stream());
    call.params.kind = kind;
    call.params.root_rank = 0;
    return Execute(call);
  }
  Status Execute(CollectiveCall& call) {
    call.params.device = Device{DeviceType::kCuda};
    call.stream = stream();
    return staged_->Execute(call);
  }

  void AwaitStream() {
    const DeviceEvent end = device_->CreateEvent(0).value();
    EXPECT_TRUE(device_->Record(end, stream()).ok());
    EXPECT_TRUE(device_->Await(end, std::chrono::steady_clock::now() + kLong).ok());
    device_->Destroy(end);
  }

  // All that is left of the device when the backend and the pool have gone. (Streams and events
  // that are left end the process when the device goes.)
  std::size_t PinnedInTheEnd() {
    staged_.reset();
    pinned_.reset();
    return device_->allocated_pinned();
  }

  SimulatedDevice& device() { return *device_; }
  DeviceStream stream() const { return stream_.get(); }

 private:
  const std::shared_ptr<SimulatedDevice> device_ = std::make_shared<SimulatedDevice>();
  std::shared_ptr<PinnedPool> pinned_ = std::make_shared<PinnedPool>(device_, std::size_t{1} << 20);
  OwnedStream stream_ = OwnedStream::Create(device_, 0, false).value();
  const std::unique_ptr<CollectiveBackend> inner_;
  StagingOptions options_;
  std::unique_ptr<StagedBackend> staged_;
};

// --- Order ---------------------------------------------------------------------------------------

TEST(StagedOrder, ReadsWhatTheStreamWritesBefore) {
  std::binary_semaphore waits(0);
  std::atomic<bool> told = false;
  StagingOptions options = OneRank::Patient();
  options.lost = [&] {
    if (!told.exchange(true)) waits.release();
    return Status::Ok();
  };
  OneRank rank(options);
  const Bytes late = SomeBytes(3 * kPiece);
  Bytes input(late.size()), output(late.size());
  rank.device().Hold(rank.stream());
  ASSERT_TRUE(rank.device().Copy(input.data(), late.data(), late.size(), rank.stream()).ok());
  auto executed = std::async(std::launch::async, [&] {
    CollectiveCall call =
        AllreduceCall(Params(DType::kUInt8, ReduceOp::kSum), 1, ByteStream({std::span(input)}),
                      ByteStream({std::span(output)}));
    return rank.Execute(call);
  });
  EXPECT_TRUE(waits.try_acquire_for(kLong)) << "nobody waits for the stream";
  rank.device().Release(rank.stream());
  EXPECT_TRUE(executed.get().ok());
  rank.AwaitStream();
  EXPECT_TRUE(output == late);
}

// What brings nothing waits for nothing, but is written in the order of the stream.
TEST(StagedOrder, WritesBetweenWhatIsOnTheStreamBeforeAndAfter) {
  Backends inner = ShmBackends(2);
  const std::unique_ptr<CollectiveBackend> root = std::move(inner[0]);
  inner.erase(inner.begin());
  StagingOptions options = OneRank::Patient();
  options.rank = 1;
  OneRank rank(options, std::move(inner));

  Bytes sent = SomeBytes(1000), received(sent.size()), before(sent.size()), after(sent.size());
  auto rooted = std::async(std::launch::async, [&] {
    const ByteStream stream({std::span(sent)});
    CollectiveCall call = BroadcastCall(0, 2, stream, stream);
    return root->Execute(call);
  });
  SimulatedDevice& device = rank.device();
  device.Hold(rank.stream());
  ASSERT_TRUE(device.Copy(before.data(), received.data(), sent.size(), rank.stream()).ok());
  CollectiveCall call = BroadcastCall(0, 2, ByteStream(), ByteStream({std::span(received)}));
  EXPECT_TRUE(rank.Execute(call).ok());
  ASSERT_TRUE(device.Copy(after.data(), received.data(), sent.size(), rank.stream()).ok());
  EXPECT_TRUE(rooted.get().ok());
  EXPECT_TRUE(received == Bytes(sent.size())) << "the stream is held";
  device.Release(rank.stream());
  rank.AwaitStream();
  EXPECT_TRUE(before == Bytes(sent.size()));
  EXPECT_TRUE(after == sent);
}

// --- A device that does not go on ----------------------------------------------------------------

TEST(StagedFailures, AStreamThatHangsIsNamedAndFinal) {
  StagingOptions options;
  options.patience = std::chrono::milliseconds(30);
  options.names = RankNames({7});
  OneRank rank(options);
  Pieces in(SomeBytes(3 * kPiece), 5, 1, 1), out(Bytes(3 * kPiece), 1, 1, 1);
  rank.device().Hold(rank.stream());
  const Status status = rank.Execute(OpKind::kAllreduce, in, out);
  EXPECT_EQ(status.code(), StatusCode::kStalled);
  for (const char* part : {"rank 7", "allreduce of 12288 bytes", "device 0", "0.03 s", "hangs"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
  rank.device().Release(rank.stream());
  rank.AwaitStream();  // and with it for what is on its way into `out`
  EXPECT_EQ(rank.Execute(OpKind::kAllreduce, in, out), status);
  EXPECT_EQ(rank.PinnedInTheEnd(), 0u);
}

TEST(StagedFailures, TheEndOfTheGroupEndsAWait) {
  StagingOptions options = OneRank::Patient();
  const Status ended(StatusCode::kPeerFailed, "rank 3 has died");
  options.lost = [&] { return ended; };
  OneRank rank(options);
  Pieces in(SomeBytes(100), 2, 1, 1), out(Bytes(100), 1, 1, 1);
  rank.device().Hold(rank.stream());
  EXPECT_EQ(rank.Execute(OpKind::kAlltoall, in, out), ended);
  rank.device().Release(rank.stream());
  EXPECT_EQ(rank.PinnedInTheEnd(), 0u);
}

TEST(StagedFailures, AWaitGivesWay) {
  OneRank* of_callbacks = nullptr;
  int gave_way = 0;
  StagingOptions options = OneRank::Patient();
  options.interruption = {.wanted = [&] { return gave_way == 0; },
                          .give_way =
                              [&] {
                                ++gave_way;
                                of_callbacks->device().Release(of_callbacks->stream());
                                return Status::Ok();
                              }};
  OneRank rank(options);
  of_callbacks = &rank;
  Pieces in(SomeBytes(100), 2, 1, 1), out(Bytes(100), 1, 1, 1);
  rank.device().Hold(rank.stream());
  EXPECT_TRUE(rank.Execute(OpKind::kAllreduce, in, out).ok());
  EXPECT_EQ(gave_way, 1);
  rank.AwaitStream();
  EXPECT_TRUE(out.Contents() == in.Contents());
}

// --- A device that is lost -----------------------------------------------------------------------

class StagedLoss : public testing::TestWithParam<OpKind> {};

// At the first call of the runtime, at the second, …, until it lasts.
TEST_P(StagedLoss, AtEveryCallIsClearFinalAndLeaksNothing) {
  int losses = 0;
  for (bool lasted = false; !lasted; ++losses) {
    ASSERT_LT(losses, 1000);
    Pieces in(SomeBytes(4 * kPiece + 8), 7, 1, 1), out(Bytes(4 * kPiece + 8), 9, 1, 2);
    OneRank rank;
    rank.device().LoseAfter(losses + 1);
    Status status = rank.Execute(GetParam(), in, out);
    if (status.ok()) status = rank.Execute(GetParam(), in, out);
    lasted = status.ok();
    if (lasted) {
      rank.device().LoseAfter(0);
      rank.AwaitStream();
      EXPECT_TRUE(out.Contents() == in.Contents());
    } else {
      EXPECT_EQ(status.code(), StatusCode::kInternal) << status.ToString();
      for (const char* part : {"rank 0: ", "device 0 is lost", "start the job again"}) {
        EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
      }
      EXPECT_EQ(rank.Execute(GetParam(), in, out), status);
    }
    EXPECT_EQ(rank.PinnedInTheEnd(), 0u) << "lost at call " << losses + 1;
  }
  EXPECT_GT(losses, 20) << "two operations have more calls";
}

INSTANTIATE_TEST_SUITE_P(Kinds, StagedLoss,
                         testing::Values(OpKind::kAllreduce, OpKind::kBroadcast, OpKind::kAllgather,
                                         OpKind::kAlltoall, OpKind::kReducescatter),
                         [](const auto& tested) { return std::string(ToString(tested.param)); });

// The others learn of it from their inner backend, which has a patience of its own.
TEST(StagedFailures, OneDeviceThatIsLostEndsTheGroup) {
  Backends inner = ShmBackends(2, 1024, std::chrono::milliseconds(200));
  std::vector<std::unique_ptr<OneRank>> ranks;
  for (int rank = 0; rank < 2; ++rank) {
    StagingOptions options = OneRank::Patient();
    options.rank = rank;
    Backends own;
    own.push_back(std::move(inner[static_cast<std::size_t>(rank)]));
    ranks.push_back(std::make_unique<OneRank>(options, std::move(own)));
  }
  ranks[1]->device().LoseAfter(5);
  const auto run = [&](int rank) {
    Bytes values(10 * kPiece);
    const ByteStream stream({std::span(values)});
    CollectiveCall call = AllreduceCall(Params(DType::kUInt8, ReduceOp::kSum), 2, stream, stream);
    const Status status = ranks[static_cast<std::size_t>(rank)]->Execute(call);
    ranks[static_cast<std::size_t>(rank)].reset();  // before the memory
    return status;
  };
  auto other = std::async(std::launch::async, run, 0);
  EXPECT_EQ(run(1).code(), StatusCode::kInternal);
  const Status status = other.get();
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.ToString();
}

}  // namespace
}  // namespace hora
