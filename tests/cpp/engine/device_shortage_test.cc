// A GPU whose memory is full, and a single rank that has one.
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <vector>

#include "engine/device_job.h"
#include "hora/base/format.h"

namespace hora {
namespace {

using testing::DeviceJob;
using testing::FakeNccl;
using testing::RankContext;

class DeviceShortage : public ::testing::Test {
 protected:
  ~DeviceShortage() override { EXPECT_EQ(FakeNccl().allocations.load(), 0); }

  using Tensors = std::vector<std::vector<float>>;
  static Tensors Two(float value) { return Tensors(2, std::vector<float>(100, value)); }
};

TEST_F(DeviceShortage, OfOneRankEndsTheGroupOnAllWithTheCause) {
  DeviceJob job(2, 2, "nccl");
  job.device().LimitMemory(64, 1);
  job.Run([&](RankContext& self) {
    RankContext gpu = self.OnDevice();
    Status status;
    const TimePoint deadline = SteadyClock::Instance().Now() + std::chrono::seconds(60);
    Tensors tensors = Two(1);
    // Who has put the first one on its stream learns with the next.
    for (int i = 0; status.ok() && SteadyClock::Instance().Now() < deadline; ++i) {
      status = gpu.Wait(gpu.GroupedAllreduce(fmt::format("gradients {}", i), tensors));
    }
    EXPECT_EQ(status.code(), StatusCode::kResource) << status.ToString();
    for (const char* part : {"rank 1: cuda:1 has no", "800 bytes",
                             "ncclMemAlloc: unhandled cuda error", "HORA_FUSION_THRESHOLD_BYTES"}) {
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    }
  });
}

TEST_F(DeviceShortage, IsOverWhereOthersGiveMemoryBack) {
  DeviceJob job(2, 2, "nccl");
  job.device().LimitMemory(64, 1);
  job.Run([&](RankContext& self) {
    self.engine().device().SetAllocator({}, [&](int index) {
      EXPECT_EQ(index, 1);
      job.device().LimitMemory(SIZE_MAX);
    });
    RankContext gpu = self.OnDevice();
    Tensors tensors = Two(1);
    const Status status = gpu.Wait(gpu.GroupedAllreduce("gradients", tensors));
    EXPECT_TRUE(status.ok()) << status.ToString();
    EXPECT_EQ(tensors, Two(2));
  });
}

TEST(DeviceAlone, NcclIsCalledWhereThatIsAskedFor) {
  for (const bool is_asked : {false, true}) {
    DeviceJob job(1, 1, "nccl");
    job.config().device.nccl_alone = is_asked;
    const int before = FakeNccl().operations;
    job.Run([&](RankContext& self) {
      RankContext gpu = self.OnDevice();
      std::vector<float> values(10, 3.0F);
      EXPECT_TRUE(gpu.Wait(gpu.Allreduce("gpu", values)).ok());
      EXPECT_EQ(values, std::vector<float>(10, 3.0F));
    });
    EXPECT_EQ(FakeNccl().operations - before, is_asked ? 1 : 0);
  }
}

}  // namespace
}  // namespace hora
