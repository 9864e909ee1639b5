// What becomes of a process set, and of what it has of a GPU, when that or NCCL does not do what it
// should.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>

#include "engine/device_job.h"
#include "hora/base/format.h"
#include "support/awaiting.h"

namespace hora {
namespace {

using std::chrono::seconds;
using testing::DeviceJob;
using testing::FakeNccl;
using testing::ProgramStream;
using testing::RankContext;

// Operations on the CPU until one fails, as all do once the set has ended.
Status UntilItFails(RankContext& self) {
  const TimePoint deadline = InTheEnd();
  while (SteadyClock::Instance().Now() < deadline) {
    std::vector<float> values(10, 1.0f);
    if (Status status = self.Wait(self.Allreduce("cpu", values)); !status.ok()) return status;
  }
  return Status::Ok();
}

// An allreduce in program order on the rank's own stream.
Status SumInOrder(RankContext& self, std::vector<float>& values, DeviceStream stream) {
  const std::span<std::byte> bytes = std::as_writable_bytes(std::span(values));
  OpParams params{.kind = OpKind::kAllreduce,
                  .device = {DeviceType::kCuda, 0},
                  .shape = Shape{static_cast<std::int64_t>(values.size())}};
  params.device.index = static_cast<std::int16_t>(self.engine().device().Chosen().value());
  CollectiveCall call{.params = params,
                      .size = self.size(),
                      .bytes_per_rank = {bytes.size()},
                      .inputs = {},
                      .outputs = {},
                      .divisor = self.size(),
                      .stream = stream};
  call.inputs.push_back(ByteStream({bytes}));
  call.outputs.push_back(ByteStream({bytes}));
  return self.set().RunOrdered(call);
}

class DeviceFailures : public ::testing::Test {
 protected:
  ~DeviceFailures() override {
    FakeNccl().faults.Clear();
    EXPECT_TRUE(Comes([] { return FakeNccl().communicators == 0; }));
  }
};

// --- What is on the device when something fails ---

TEST_F(DeviceFailures, WhatFailsOnItsWayNamesWhatIsOnTheDevice) {
  FakeNccl().faults.fail_at = 1;
  DeviceJob job(2, 2, "nccl");
  std::atomic<int> at_work = 0;  // one rank at least: the other may learn before it has begun
  job.Run([&](RankContext& self) {
    ProgramStream stream(job.device(), self);
    stream.Hold();
    RankContext gpu = self.OnDevice(stream.Mark(self));
    std::vector<std::vector<float>> group(2, std::vector<float>(1000, 1.0f));
    const auto handle = gpu.GroupedAllreduce("packed", group);
    EXPECT_FALSE(gpu.WaitForHandle(handle).ok());
    const EventPool::Lease& rest = handle->outcome().on_device;
    if (rest != nullptr && !job.device().IsDone(*rest).value()) ++at_work;
    stream.Release();
    gpu.WaitForDevice(*handle);
  });
  EXPECT_GT(at_work, 0) << "operands were still to be packed";
}

TEST_F(DeviceFailures, SoDoesWhatTheEndOfTheSetOvertakes) {
  FakeNccl().faults.hang_at = 1;
  DeviceJob job(2, 2, "nccl");
  job.config().stall_abort = seconds(4);
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f), more(10, 1.0f);
    EXPECT_TRUE(gpu.WaitForHandle(gpu.Allreduce("hangs", values)).ok());
    const bool is_late = self.rank() == 1;  // so this is never agreed
    const auto handle = is_late ? nullptr : gpu.Allreduce("late", more);
    EXPECT_FALSE(UntilItFails(self).ok());
    if (is_late) return;
    EXPECT_FALSE(gpu.WaitForHandle(handle).ok());
    EXPECT_NE(handle->outcome().on_device, nullptr);
    gpu.WaitForDevice(*handle);
  });
}

// --- What nobody waits for ---

TEST_F(DeviceFailures, WhatFailsInProgramOrderEndsTheSetForAll) {
  FakeNccl().faults.rank = 1;
  FakeNccl().faults.fail_async_at = 1;
  DeviceJob job(3, 3, "nccl");
  std::latch all_are_there(3);
  job.Run([&](RankContext& self) {
    ProgramStream stream(job.device(), self);
    stream.Hold();
    std::vector<float> values(10, 1.0f);
    const Status status = SumInOrder(self, values, stream.get());
    EXPECT_TRUE(status.ok()) << status.ToString();
    all_are_there.arrive_and_wait();
    stream.Release();
    ExpectSays(
        UntilItFails(self), StatusCode::kPeerFailed,
        {"NCCL, rank 1 (cuda:1) of 'process set 0 in program order', ranks 0-2", "system error"});
    const EventPool::Lease end = stream.Mark(self);
    EXPECT_TRUE(job.device().Await(*end, InTheEnd()).ok()) << "the stream was released";
  });
}

TEST_F(DeviceFailures, SoDoesWhatFailsWhenAGraphIsReplayed) {
  FakeNccl().faults.rank = 1;
  FakeNccl().faults.fail_async_at = 2;
  DeviceJob job(2, 2, "nccl");
  std::latch both_have_captured(2);
  job.Run([&](RankContext& self) {
    ProgramStream stream(job.device(), self);
    std::vector<float> values(10, 1.0f);
    ASSERT_TRUE(SumInOrder(self, values, stream.get()).ok());
    job.device().BeginCapture(stream.get());
    const Status captured = SumInOrder(self, values, stream.get());
    EXPECT_TRUE(captured.ok()) << captured.ToString();
    Result<SimulatedGraph> graph = job.device().EndCapture(stream.get());
    ASSERT_TRUE(graph) << graph.error().ToString();
    both_have_captured.arrive_and_wait();
    job.device().Replay(*graph, stream.get());
    ExpectSays(UntilItFails(self), StatusCode::kPeerFailed, {"NCCL, rank 1 ", "system error"});
    const EventPool::Lease end = stream.Mark(self);
    EXPECT_TRUE(job.device().Await(*end, InTheEnd()).ok());
    graph->reset();
  });
}

// --- What NCCL does not come back from ---

TEST_F(DeviceFailures, AnAbortThatHangsKeepsNobodyFromKnowing) {
  FakeNccl().faults.rank = 1;
  FakeNccl().faults.fail_async_at = 1;
  FakeNccl().faults.end.abort_hangs = true;
  DeviceJob job(3, 3, "nccl");
  job.config().stall_abort = seconds(4);
  job.set_leaks();
  std::latch all_are_there(3);
  job.Run([&](RankContext& self) {
    ProgramStream stream(job.device(), self);
    stream.Hold();
    RankContext gpu = self.OnDevice(stream.Mark(self));
    std::vector<float> values(10, 1.0f);
    const auto handle = gpu.Allreduce("gpu", values);
    EXPECT_TRUE(gpu.WaitForHandle(handle).ok()) << handle->status().ToString();
    all_are_there.arrive_and_wait();
    stream.Release();
    ExpectSays(UntilItFails(self), StatusCode::kPeerFailed, {"NCCL, rank 1 ", "system error"});
    EXPECT_TRUE(self.engine().Shutdown().ok()) << "the GPU keeps what is on it";
    if (self.rank() == 1) FakeNccl().faults.Clear();
    gpu.WaitForDevice(*handle);
  });
}

// --- The end of a set ---

TEST_F(DeviceFailures, WhoLeavesGivesBackTheGpu) {
  DeviceJob job(2, 2, "nccl");
  job.Run([&](RankContext& self) {
    const int id = self.AddSet({0, 1});
    RankContext member = self.In(id);  // holds the set until the end, as handles do
    RankContext gpu = member.OnDevice();
    std::vector<std::vector<float>> group(2, std::vector<float>(1000, 1.0f));
    EXPECT_TRUE(gpu.Wait(gpu.GroupedAllreduce("packed", group)).ok());
    ProgramStream stream(job.device(), self);
    ASSERT_TRUE(SumInOrder(member, group[0], stream.get()).ok());
    const EventPool::Lease end = stream.Mark(self);
    EXPECT_TRUE(job.device().Await(*end, InTheEnd()).ok());
    EXPECT_GT(FakeNccl().communicators, 0);
    EXPECT_GT(FakeNccl().allocations, 0);
    self.RemoveSet(id);
    EXPECT_TRUE(self.Wait(self.Barrier("both")).ok());
    EXPECT_EQ(FakeNccl().communicators, 0);
    EXPECT_EQ(FakeNccl().allocations, 0);
    EXPECT_EQ(job.device().allocated_device(), 0u);
    ExpectSays(SumInOrder(member, group[0], stream.get()), StatusCode::kShutDown, {"has left"});
    EXPECT_EQ(gpu.Wait(gpu.GroupedAllreduce("again", group)).code(), StatusCode::kShutDown);
  });
}

TEST_F(DeviceFailures, WhoIsStuckInAnOperationIsNotWaitedForInVain) {
  DeviceJob job(1, 1, "nccl");
  job.Run([&](RankContext& self) {
    std::latch asked(1), answered(1);
    self.engine().device().SetAllocator(
        [&](int, std::size_t, DeviceStream) -> Result<std::shared_ptr<std::byte>> {
          asked.count_down();
          answered.wait();
          return Fail(Error(StatusCode::kResource, "no memory"));
        });
    RankContext gpu = self.OnDevice();
    std::vector<float> rows(10, 1.0f);
    const auto handle = gpu.Allgather("stuck", rows);
    asked.wait();
    ExpectSays(self.set().Leave(std::chrono::milliseconds(10)), StatusCode::kStalled,
               {"rank 0 cannot leave", "not freed"});
    EXPECT_FALSE(handle->done()) << "its memory is in use";
    EXPECT_EQ(self.Allreduce("late", rows)->status().code(), StatusCode::kShutDown);
    answered.count_down();
    EXPECT_TRUE(self.set().Leave().ok()) << "once it has come back";
    EXPECT_EQ(handle->status().code(), StatusCode::kShutDown) << handle->status().ToString();
  });
}

}  // namespace
}  // namespace hora
