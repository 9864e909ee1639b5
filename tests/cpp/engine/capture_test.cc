// Collectives beside graphs that others capture.
#include <gtest/gtest.h>

#include <thread>

#include "engine/device_job.h"

namespace hora {
namespace {

using testing::DeviceJob;
using testing::FloatsOf;
using testing::ProgramStream;
using testing::RankContext;

// Results come from a library's allocator, which asks the driver without a word about captures.
void AllocateAsALibraryDoes(SimulatedDevice& device, RankContext& self) {
  self.engine().device().SetAllocator(
      [&device](int index, std::size_t bytes, DeviceStream) -> Result<std::shared_ptr<std::byte>> {
        Result<std::byte*> memory = device.AllocateMinding(index, bytes);
        if (!memory) return Fail(std::move(memory.error()));
        return std::shared_ptr<std::byte>(*memory,
                                          [&device](std::byte* each) { device.FreeDevice(each); });
      });
}

class Capture : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Ways, Capture, ::testing::Values("nccl", "staged"),
                         [](const auto& way) { return std::string(way.param); });

TEST_P(Capture, OfAnotherThreadGoesOnBesideCollectives) {
  DeviceJob job(2, 2, GetParam());
  job.Run([&](RankContext& self) {
    AllocateAsALibraryDoes(job.device(), self);
    ProgramStream captured(job.device(), self);
    job.device().BeginCapture(captured.get(), CaptureMode::kGlobal);
    // On a thread of its own, as what is captured is this one's: streams, memory and NCCL's group
    // are made, events asked for, results allocated.
    std::jthread([&] {
      RankContext gpu = self.OnDevice();
      std::vector<float> values(100, 1.0f), rows(10, static_cast<float>(self.rank()));
      std::vector<std::vector<float>> group(3, std::vector<float>(10, 1.0f));
      EXPECT_TRUE(gpu.Wait(gpu.Allreduce("sum", values)).ok());
      EXPECT_EQ(values[99], 2.0f);
      EXPECT_TRUE(gpu.Wait(gpu.GroupedAllreduce("group", group)).ok());
      const auto gathered = gpu.Allgather("rows", rows);
      const Status status = gpu.Wait(gathered);
      ASSERT_TRUE(status.ok()) << status.ToString();
      EXPECT_EQ(FloatsOf(*gathered->gathered().front())[10], 1.0f);
    }).join();
    const Result<SimulatedGraph> graph = job.device().EndCapture(captured.get());
    EXPECT_TRUE(graph) << graph.error().ToString();
  });
}

}  // namespace
}  // namespace hora
