// Collectives beside graphs that others capture, and graphs of collectives in program order.
#include <gtest/gtest.h>

#include <thread>

#include "collectives/graph_step.h"
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

// --- Graphs of collectives in program order ---

// What one rank does with a step on a stream of its own.
class OrderedRank {
 public:
  OrderedRank(SimulatedDevice& device, RankContext& self)
      : device_(device), self_(self), stream_(device, self) {}

  Status Put(CollectiveCall& call) {
    call.params.device = {DeviceType::kCuda,
                          static_cast<std::int16_t>(*self_.engine().device().index())};
    call.stream = stream_.get();
    return self_.set().RunOrdered(call);
  }
  void PutOk(GraphStep& step) {
    for (CollectiveCall& call : step.Calls()) {
      const Status status = Put(call);
      EXPECT_TRUE(status.ok()) << status.ToString();
    }
  }
  // The first refusal of what is put on the stream while it is captured, which breaks no capture.
  Status Refusal(const std::function<Status()>& put) {
    device_.BeginCapture(stream_.get());
    const Status status = put();
    const Result<SimulatedGraph> graph = device_.EndCapture(stream_.get());
    EXPECT_TRUE(graph) << graph.error().ToString();
    EXPECT_TRUE(graph && (*graph)->empty()) << "something was put there";
    return status;
  }
  void Await() {
    const EventPool::Lease mark = stream_.Mark(self_);
    EXPECT_TRUE(
        device_.Await(*mark, SteadyClock::Instance().Now() + std::chrono::seconds(60)).ok());
  }
  void Meet() { EXPECT_TRUE(self_.Wait(self_.Barrier("meet")).ok()); }  // all ranks
  DeviceStream stream() const { return stream_.get(); }

 private:
  SimulatedDevice& device_;
  RankContext& self_;
  ProgramStream stream_;
};

void Expect(const Status& status, StatusCode code, std::string_view part) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
}

// A sum that lies in two pieces, so that it goes through the set's own memory.
CollectiveCall TwoPieces(std::vector<float>& first, std::vector<float>& second) {
  const auto bytes = [](std::vector<float>& each) {
    return std::as_writable_bytes(std::span(each));
  };
  const ByteStream both({bytes(first), bytes(second)});
  return AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), GraphStep::kSize, both, both);
}

TEST(OrderedGraph, IsCapturedAfterOneRoundAndReplayedWithOtherNumbers) {
  DeviceJob job(GraphStep::kSize, GraphStep::kSize, "nccl");
  job.Run([&](RankContext& self) {
    SimulatedDevice& device = job.device();
    OrderedRank rank(device, self);
    GraphStep step(self.rank()), eager(self.rank());
    step.Fill(0);
    rank.PutOk(step);
    rank.Await();
    rank.Meet();
    const int allocations = device.allocations();
    const auto before = step.memory();
    device.BeginCapture(rank.stream(), CaptureMode::kGlobal);
    rank.PutOk(step);
    const Result<SimulatedGraph> graph = device.EndCapture(rank.stream());
    ASSERT_TRUE(graph) << graph.error().ToString();
    EXPECT_EQ(step.memory(), before) << "a capture runs nothing";
    rank.Meet();
    EXPECT_EQ(device.allocations(), allocations);
    for (int round = 1; round <= 3; ++round) {
      step.Fill(round);
      device.Replay(*graph, rank.stream());
      rank.Await();
      eager.Fill(round);
      rank.PutOk(eager);  // other work between two replays is no harm
      rank.Await();
      EXPECT_EQ(step.memory(), eager.memory());
    }
  });
}

TEST(OrderedGraph, TheFirstOperationIsRefusedAndMayComeLater) {
  DeviceJob job(GraphStep::kSize, GraphStep::kSize, "nccl");
  job.Run([&](RankContext& self) {
    OrderedRank rank(job.device(), self);
    std::vector<float> first(4, 1.0f), second(5, 2.0f);
    CollectiveCall call = TwoPieces(first, second);
    if (self.rank() == 0) {  // the others hear nothing of it
      Expect(rank.Refusal([&] { return rank.Put(call); }), StatusCode::kInvalidArgument,
             "allreduce in program order cannot be captured into a CUDA graph: it is the first");
    }
    ASSERT_TRUE(rank.Put(call).ok());
    rank.Await();
    EXPECT_EQ(second, std::vector<float>(5, 4.0f));
  });
}

TEST(OrderedGraph, MemoryDoesNotGrowInACapture) {
  DeviceJob job(GraphStep::kSize, GraphStep::kSize, "nccl");
  job.Run([&](RankContext& self) {
    OrderedRank rank(job.device(), self);
    std::vector<float> first(4, 1.0f), second(5, 2.0f), large(50'000, 3.0f);
    CollectiveCall small = TwoPieces(first, second);
    ASSERT_TRUE(rank.Put(small).ok());
    CollectiveCall call = TwoPieces(first, large);
    Expect(rank.Refusal([&] { return rank.Put(call); }), StatusCode::kInvalidArgument,
           "allreduce needs 200016 bytes that are not there yet");
    ASSERT_TRUE(rank.Put(call).ok()) << "the set goes on";
    rank.Await();
    EXPECT_EQ(large[0], 6.0f);
    job.device().BeginCapture(rank.stream());
    EXPECT_TRUE(rank.Put(call).ok()) << "now it is there";
    EXPECT_TRUE(job.device().EndCapture(rank.stream()));
  });
}

TEST(OrderedGraph, WhatIsStagedIsRefused) {
  DeviceJob job(GraphStep::kSize, 1, "staged");
  job.Run([&](RankContext& self) {
    OrderedRank rank(job.device(), self);
    std::vector<float> first(4, 1.0f), second(5, 2.0f);
    CollectiveCall call = TwoPieces(first, second);
    ASSERT_TRUE(rank.Put(call).ok());
    Expect(rank.Refusal([&] { return rank.Put(call); }), StatusCode::kInvalidArgument,
           "it goes through the host's memory");
    ASSERT_TRUE(rank.Put(call).ok());
    rank.Await();
    EXPECT_EQ(first, std::vector<float>(4, 4.0f));
  });
}

}  // namespace
}  // namespace hora
