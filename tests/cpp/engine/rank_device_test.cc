#include "hora/engine/rank_device.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "hora/base/clock.h"
#include "hora/base/format.h"
#include "simulated_device/simulated_device.h"

namespace hora {
namespace {

RankDevice::Open Having(std::shared_ptr<DeviceRuntime> runtime) {
  return [runtime] { return runtime; };
}

std::shared_ptr<SimulatedDevice> Devices(int count) {
  return std::make_shared<SimulatedDevice>(count);
}

TEST(RankDevice, IsTheOneThatIsChosenFirst) {
  RankDevice device(3, 0, 0, Having(Devices(2)));
  EXPECT_FALSE(device.index());
  EXPECT_TRUE(device.Choose(1).ok());
  EXPECT_TRUE(device.Choose(1).ok());
  EXPECT_EQ(device.index(), 1);
  EXPECT_EQ(device.Chosen().value(), 1);

  const Status other = device.Choose(0);
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(other.message(),
            "rank 3 works on cuda:1, and cannot on cuda:0 besides: a rank has one GPU, which "
            "hvd.set_device() chooses before the first operation");
  EXPECT_EQ(device.index(), 1);
}

TEST(RankDevice, TakesTurnsWhereNobodyChooses) {
  const auto devices = Devices(2);
  std::vector<int> chosen;
  for (int local_rank = 0; local_rank < 4; ++local_rank) {
    chosen.push_back(RankDevice(local_rank, local_rank, 0, Having(devices)).Chosen().value());
  }
  EXPECT_EQ(chosen, (std::vector{0, 1, 0, 1}));
}

TEST(RankDevice, SaysWhichDevicesThereAre) {
  RankDevice one(2, 0, 0, Having(Devices(1)));
  EXPECT_EQ(one.Choose(1).message(),
            "rank 2: there is no cuda:1; this process has cuda:0 (CUDA_VISIBLE_DEVICES may hide "
            "others)");
  RankDevice three(2, 0, 0, Having(Devices(3)));
  EXPECT_EQ(three.Choose(-1).message(),
            "rank 2: there is no cuda:-1; this process has cuda:0 to cuda:2 (CUDA_VISIBLE_DEVICES "
            "may hide others)");
  EXPECT_EQ(three.Choose(-1).code(), StatusCode::kInvalidArgument);
  EXPECT_FALSE(three.index());
}

TEST(RankDevice, SaysWhyThereIsNoneAndAsksOnce) {
  int asked = 0;
  RankDevice device(1, 0, 0, [&]() -> Result<std::shared_ptr<DeviceRuntime>> {
    ++asked;
    return Fail(Error(StatusCode::kResource, "no driver; install one"));
  });
  EXPECT_EQ(asked, 0) << "who has no GPU tensors pays nothing";
  EXPECT_EQ(device.Choose(0).ToString(), device.runtime().error().ToString());
  EXPECT_EQ(device.Chosen().error().message(), "rank 1: no driver; install one");
  EXPECT_EQ(device.Chosen().error().code(), StatusCode::kResource);
  EXPECT_FALSE(device.Mark({}));
  EXPECT_FALSE(device.AllocateResult(8, {}));
  EXPECT_EQ(asked, 1);

  RankDevice none(0, 0, 0, Having(Devices(0)));
  EXPECT_EQ(none.Chosen().error().message(),
            "rank 0: there is no GPU for this process (simulated, 0 device(s))");
}

TEST(RankDevice, MarksAStreamOfItsDevice) {
  const auto devices = Devices(2);
  RankDevice device(0, 0, 0, Having(devices));
  ASSERT_TRUE(device.Choose(1).ok());
  const OwnedStream stream = OwnedStream::Create(devices, 1, false).value();
  devices->Hold(stream.get());
  const EventPool::Lease mark = device.Mark(stream.get()).value();
  EXPECT_FALSE(devices->IsDone(*mark).value());
  devices->Release(stream.get());
  EXPECT_TRUE(devices->Await(*mark, SteadyClock::Instance().Now() + std::chrono::seconds(60)).ok());
}

TEST(RankDevice, ResultsComeFromTheAllocatorOnceThereIsOne) {
  const auto devices = Devices(2);
  RankDevice device(0, 1, 0, Having(devices));
  {
    const auto own = device.AllocateResult(100, {}).value();
    EXPECT_NE(own, nullptr);
    EXPECT_EQ(devices->allocated_device(), 1u);
  }
  EXPECT_EQ(devices->allocated_device(), 0u);

  std::byte memory{};
  device.SetAllocator(
      [&](int index, std::size_t bytes, DeviceStream) -> Result<std::shared_ptr<std::byte>> {
        EXPECT_EQ(index, 1);
        if (bytes > 100) return Fail(Error(StatusCode::kResource, "out of memory"));
        return std::shared_ptr<std::byte>(std::shared_ptr<void>(), &memory);
      });
  EXPECT_EQ(device.AllocateResult(100, {}).value().get(), &memory);
  EXPECT_EQ(device.AllocateResult(101, {}).error().message(), "out of memory");
}

TEST(RankDevice, AsksWhoeverAllocatesToGiveMemoryBack) {
  RankDevice device(0, 1, 0, Having(Devices(2)));
  device.MakeMemoryRoom();  // there is nobody
  int asked = -1;
  device.SetAllocator({}, [&](int index) { asked = index; });
  device.MakeMemoryRoom();
  EXPECT_EQ(asked, -1) << "no device has been used yet";
  ASSERT_TRUE(device.Choose(1).ok());
  device.MakeMemoryRoom();
  EXPECT_EQ(asked, 1);
}

TEST(RankDevice, IsChosenByOneOfManyThreads) {
  RankDevice device(0, 0, 1 << 20, Having(Devices(2)));
  std::atomic<int> refused{0};
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] { refused += device.Choose(i % 2).ok() ? 0 : 1; });
    }
  }
  EXPECT_EQ(refused, 4);
  EXPECT_NE(device.pinned(), nullptr);
}

}  // namespace
}  // namespace hora
