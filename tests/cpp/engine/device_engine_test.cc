// What the engine promises about GPU tensors besides their values: order, and what happens when
// things go wrong.
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <thread>

#include "engine/device_job.h"
#include "hora/base/format.h"

namespace hora {
namespace {

using std::chrono::seconds;
using testing::DeviceJob;
using testing::FakeNccl;
using testing::ProgramStream;
using testing::RankContext;

std::span<std::byte> BytesOf(std::vector<float>& values) {
  return std::as_writable_bytes(std::span(values));
}

void Fill(SimulatedDevice& device, std::vector<float>& values, const float& value,
          DeviceStream stream) {
  ASSERT_TRUE(
      device
          .Fill(BytesOf(values).data(), std::as_bytes(std::span(&value, 1)), values.size(), stream)
          .ok());
}

void Expect(const Status& status, StatusCode code, const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  for (const std::string& part : parts) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

// Operations on the CPU until one fails, as all do once the set has ended.
Status UntilItFails(RankContext& self) {
  const TimePoint deadline = SteadyClock::Instance().Now() + seconds(60);
  while (SteadyClock::Instance().Now() < deadline) {
    std::vector<float> values(10, 1.0f);
    if (Status status = self.Wait(self.Allreduce("cpu", values)); !status.ok()) return status;
  }
  return Status::Ok();
}

class DeviceEngine : public ::testing::Test {
 protected:
  // The next test starts as this one did.
  ~DeviceEngine() override {
    FakeNcclFaults& faults = FakeNccl().faults;
    faults.rank = -1;
    faults.hang_at = faults.fail_at = faults.fail_async_at = 0;
    faults.failure = nccl::Result::kSystemError;
    faults.creation = nccl::Result::kSuccess;
    faults.creation_hangs = false;
    FakeNccl().delay_us = 0;
    FakeNccl().polls = 0;
  }
};

TEST(BulkLane, TakesWhatIsOnAGpuInOneOrder) {
  OpParams params{.priority = 5, .device = {DeviceType::kCuda, 0}};
  EXPECT_TRUE(WillBeBulk(params, 4, {})) << "however small and urgent it is";
  EXPECT_TRUE(IsBulk({.params = params}, 2, {}));
  params.kind = OpKind::kBarrier;
  EXPECT_FALSE(WillBeBulk(params, 0, {}));
}

TEST_F(DeviceEngine, HandlesAreDoneBeforeTheDeviceIs) {
  DeviceJob job(2, 2, "nccl");
  job.Run([&](RankContext& self) {
    ProgramStream stream(job.device(), self);
    stream.Hold();
    std::vector<float> values(1000, 99.0f);
    Fill(job.device(), values, 3.0f, stream.get());
    RankContext gpu = self.OnDevice(stream.Mark(self));
    const auto handle = gpu.Allreduce("gpu", values);
    ASSERT_TRUE(gpu.WaitForHandle(handle).ok());
    ASSERT_NE(handle->outcome().on_device, nullptr);
    EXPECT_FALSE(job.device().IsDone(*handle->outcome().on_device).value());
    std::vector<float> cpu(10, 1.0f);
    EXPECT_TRUE(self.Wait(self.Allreduce("cpu", cpu)).ok()) << "nothing waits for the device";
    EXPECT_FALSE(job.device().IsDone(*handle->outcome().on_device).value());
    EXPECT_EQ(values[0], 99.0f) << "was touched before it was ready";
    stream.Release();
    gpu.WaitForDevice(*handle);
    EXPECT_EQ(values, std::vector<float>(1000, 6.0f));
  });
}

TEST_F(DeviceEngine, StagesNothingBeforeItIsReady) {
  DeviceJob job(2, 1, "auto");
  job.Run([&](RankContext& self) {
    ProgramStream stream(job.device(), self);
    stream.Hold();
    std::vector<float> values(300'000, 99.0f);
    Fill(job.device(), values, 3.0f, stream.get());
    RankContext gpu = self.OnDevice(stream.Mark(self));
    const auto handle = gpu.Allreduce("gpu", values);
    std::vector<float> cpu(10, 1.0f);
    EXPECT_TRUE(self.Wait(self.Allreduce("cpu", cpu)).ok()) << "it gives way meanwhile";
    EXPECT_FALSE(handle->done());
    stream.Release();
    EXPECT_TRUE(gpu.Wait(handle).ok()) << handle->status().ToString();
    EXPECT_EQ(values, std::vector<float>(300'000, 6.0f));
  });
}

TEST_F(DeviceEngine, AllAreToldWhichRankHasNoGpuAndGoOnWithout) {
  DeviceJob job(3, 1, "auto");
  job.options().without_device.Add(1);
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    for (int round = 0; round < 2; ++round) {
      std::vector<float> values(10, 1.0f);
      Expect(gpu.Wait(gpu.Allreduce("gpu", values)), StatusCode::kResource,
             {"rank 1 cannot work on GPU tensors: rank 1: this test has no GPU", "to the CPU"});
      std::vector<std::vector<float>> group(3, std::vector<float>(10, 1.0f));
      EXPECT_FALSE(gpu.Wait(gpu.GroupedAllreduce("group", group)).ok());
      EXPECT_TRUE(self.Wait(self.Allreduce("cpu", values)).ok());
      EXPECT_EQ(values[9], 3.0f);
    }
  });
}

TEST_F(DeviceEngine, ARankThatHasJoinedMayLackAGpu) {
  DeviceJob job(2, 1, "auto");
  job.options().without_device.Add(1);
  job.Run([&](RankContext& self) {
    if (self.rank() == 0) {
      RankContext gpu = self.OnDevice();
      std::vector<float> values(10, 1.0f);
      Expect(gpu.Wait(gpu.Allreduce("gpu", values)), StatusCode::kResource, {"rank 1 cannot"});
    }
    EXPECT_TRUE(self.Wait(self.Join()).ok());
  });
}

TEST_F(DeviceEngine, ASecondGpuIsTheSubmissionsOwnError) {
  DeviceJob job(1, 2, "auto");
  job.Run([&](RankContext& self) {
    std::vector<float> values(10, 1.0f);
    RankContext gpu = self.OnDevice();
    EXPECT_TRUE(gpu.Wait(gpu.Allreduce("gpu", values)).ok());
    Request request{.name = "other",
                    .params = {.kind = OpKind::kAllreduce,
                               .device = {DeviceType::kCuda, 1},
                               .shape = Shape{10}},
                    .first_dims = {}};
    TensorEntry entry;
    entry.input =
        entry.output = {BytesOf(values).data(), DType::kFloat32, request.params.device, Shape{10}};
    entry.request = request;
    entry.handle = std::make_shared<Handle>("other");
    Expect(self.set().Submit(std::move(entry), false), StatusCode::kInvalidArgument,
           {"'other'", "works on cuda:0, and cannot on cuda:1"});
  });
}

TEST_F(DeviceEngine, WishesThatDifferAreRefusedOnAll) {
  DeviceJob job(2, 1, "auto");
  job.config().device.backend = "nccl";  // on one device
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f);
    Expect(gpu.Wait(gpu.Allreduce("gpu", values)), StatusCode::kResource,
           {"HORA_GPU_BACKEND=nccl", "ranks 0-1 share a GPU"});
  });
}

TEST_F(DeviceEngine, StagesWhereNcclCannotStart) {
  FakeNccl().faults.rank = 1;
  FakeNccl().faults.creation = nccl::Result::kSystemError;
  DeviceJob job(2, 2, "auto");
  job.config().stall_abort = seconds(6);  // half of it is for NCCL
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f);
    const auto handle = gpu.Allreduce("gpu", values);
    EXPECT_TRUE(gpu.Wait(handle).ok()) << handle->status().ToString();
    EXPECT_EQ(values[9], 2.0f);
  });
}

TEST_F(DeviceEngine, RefusesWhereNcclWasAskedForAndCannotStart) {
  FakeNccl().faults.rank = 0;
  FakeNccl().faults.creation = nccl::Result::kSystemError;
  DeviceJob job(2, 2, "nccl");
  job.config().stall_abort = seconds(6);
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f);
    Expect(gpu.Wait(gpu.Allreduce("gpu", values)), StatusCode::kResource,
           {"which does not work: NCCL, rank 0 (cuda:0)", "system error"});
    EXPECT_TRUE(self.Wait(self.Allreduce("cpu", values)).ok());
  });
}

// Nobody waits for the operation, and yet everybody learns.
TEST_F(DeviceEngine, WhatFailsOnTheDeviceEndsTheSetForAll) {
  FakeNccl().faults.rank = 1;
  FakeNccl().faults.fail_async_at = 1;
  DeviceJob job(3, 3, "nccl");
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
    gpu.WaitForDevice(*handle);  // the lane's goes on
    Expect(UntilItFails(self), StatusCode::kPeerFailed,
           {"NCCL, rank 1 (cuda:1) of 'process set 0', ranks 0-2", "system error"});
  });
}

TEST_F(DeviceEngine, WhatHangsOnTheDeviceEndsTheSetWithinThePatience) {
  FakeNccl().faults.hang_at = 1;
  DeviceJob job(2, 2, "nccl");
  job.config().stall_abort = seconds(6);
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f);
    const auto handle = gpu.Allreduce("gpu", values);
    EXPECT_TRUE(gpu.WaitForHandle(handle).ok()) << handle->status().ToString();
    gpu.WaitForDevice(*handle);
    Expect(UntilItFails(self), StatusCode::kStalled,
           {"has not come to the end of an operation of process set 0 for 6 s"});
  });
}

TEST_F(DeviceEngine, WhatNcclDoesNotTakeFailsTheOperation) {
  FakeNccl().faults.fail_at = 1;
  FakeNccl().faults.failure = nccl::Result::kInternalError;
  DeviceJob job(2, 2, "nccl");
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f);
    Expect(gpu.Wait(gpu.Allreduce("gpu", values)), StatusCode::kInternal,
           {"NCCL, rank", "internal error"});
  });
}

TEST_F(DeviceEngine, WhoeverWaitsOnTheDeviceIsFreeWhenARankDies) {
  DeviceJob job(3, 3, "nccl");
  std::latch on_all_devices(3), others_know(2);
  job.Run([&](RankContext& self) {
    ProgramStream stream(job.device(), self);
    const bool dies = self.rank() == 1;
    if (dies) stream.Hold();
    std::vector<float> values(10, 1.0f);
    RankContext gpu = self.OnDevice(stream.Mark(self));
    const auto handle = gpu.Allreduce("gpu", values);
    EXPECT_TRUE(gpu.WaitForHandle(handle).ok()) << handle->status().ToString();
    on_all_devices.arrive_and_wait();
    if (dies) {
      self.engine().Abort(Error(StatusCode::kPeerFailed, "rank 1 was killed"));
      others_know.wait();
      stream.Release();
      gpu.WaitForDevice(*handle);
      return;
    }
    gpu.WaitForDevice(*handle);
    Expect(UntilItFails(self), StatusCode::kPeerFailed, {"rank 1 was killed"});
    others_know.count_down();
  });
}

TEST_F(DeviceEngine, LeavesOnceTheDeviceIsPastItsWork) {
  FakeNccl().delay_us = 200'000;
  DeviceJob job(2, 2, "nccl");
  std::vector<std::vector<float>> values(2, std::vector<float>(1000, 1.0f));
  std::vector<std::shared_ptr<Handle>> handles(2);
  const int aborts = FakeNccl().aborts;
  job.Run([&](RankContext& self) {
    const auto place = static_cast<std::size_t>(self.rank());
    RankContext gpu = self.OnDevice();
    handles[place] = gpu.Allreduce("gpu", values[place]);
    EXPECT_TRUE(gpu.WaitForHandle(handles[place]).ok());
  });
  EXPECT_EQ(FakeNccl().aborts, aborts);
  for (const auto& each : values) EXPECT_EQ(each, std::vector<float>(1000, 2.0f));
}

TEST_F(DeviceEngine, LeavesADeviceThatStaysBusy) {
  FakeNccl().faults.hang_at = 1;
  DeviceJob job(2, 2, "nccl");
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f);
    EXPECT_TRUE(gpu.WaitForHandle(gpu.Allreduce("gpu", values)).ok());
    EXPECT_TRUE(self.engine().Shutdown().ok());
  });
}

TEST_F(DeviceEngine, ALostDeviceEndsTheSet) {
  DeviceJob job(2, 1, "staged");
  std::latch both_have_used_it(2);
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    std::vector<float> values(10, 1.0f);
    EXPECT_TRUE(gpu.Wait(gpu.Allreduce("gpu", values)).ok());
    both_have_used_it.arrive_and_wait();
    job.device().LoseAfter(1);
    const Status status = gpu.Wait(gpu.Allreduce("gpu", values));
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("lost"), std::string::npos) << status.message();
  });
}

}  // namespace
}  // namespace hora
