// What NCCL's backend puts on a stream can be captured once and replayed.
#include "collectives/graph_step.h"
#include "collectives/nccl_ranks.h"

namespace hora {
namespace {

constexpr int kRanks = GraphStep::kSize;

class NcclGraph : public testing::Test {
 protected:
  void SetUp() override { FakeNcclControls().polls = 2; }
  void TearDown() override {
    FakeNcclControls().polls = 0;
    EXPECT_EQ(FakeNcclControls().communicators, 0);
  }
};

// Puts the step on the stream; the host waits for nothing.
void Put(NcclOnHost& rank, GraphStep& step) {
  for (CollectiveCall& call : step.Calls()) {
    call.params.device.type = DeviceType::kCuda;
    call.stream = rank.stream();
    const Status status = rank.backend().Execute(call);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
}

void AwaitStreams(NcclRanks& group) {
  for (const int rank : group.ranks()) EXPECT_TRUE(group.backend(rank).Await().ok());
}

TEST_F(NcclGraph, IsCapturedAfterOneRoundAndReplayedWithOtherNumbers) {
  NcclRanks group(kRanks);
  std::vector<GraphStep> steps = {GraphStep(0), GraphStep(1)};
  for (const int rank : group.ranks()) {  // memory and registrations are there from here on
    steps[rank].Fill(0);
    Put(group.backend(rank), steps[rank]);
  }
  AwaitStreams(group);
  const std::size_t allocated = group.device().allocated_device();
  const int registrations = FakeNcclControls().registrations;
  EXPECT_GT(registrations, 0);

  std::vector<SimulatedGraph> graphs;
  for (const int rank : group.ranks()) {
    const auto before = steps[rank].memory();
    group.device().BeginCapture(group.backend(rank).stream());
    Put(group.backend(rank), steps[rank]);
    const Result<SimulatedGraph> graph = group.device().EndCapture(group.backend(rank).stream());
    ASSERT_TRUE(graph) << graph.error().ToString();
    graphs.push_back(*graph);
    EXPECT_EQ(steps[rank].memory(), before) << "a capture runs nothing";
  }
  EXPECT_EQ(group.device().allocated_device(), allocated);
  EXPECT_EQ(FakeNcclControls().registrations, registrations);

  std::vector<GraphStep> eager = {GraphStep(0), GraphStep(1)};
  for (int round = 1; round <= 3; ++round) {
    for (const int rank : group.ranks()) {
      steps[rank].Fill(round);
      group.device().Replay(graphs[rank], group.backend(rank).stream());
    }
    AwaitStreams(group);
    for (const int rank : group.ranks()) {  // other work between two replays is no harm
      eager[rank].Fill(round);
      Put(group.backend(rank), eager[rank]);
    }
    AwaitStreams(group);
    for (const int rank : group.ranks()) {
      EXPECT_EQ(steps[rank].memory(), eager[rank].memory()) << "rank " << rank;
    }
  }
}

// Only what was refused before anything happened may be called off; this one was not.
TEST_F(NcclGraph, WhatNcclRefusesIsNoRefusalOfACapture) {
  NcclRanks group(kRanks);
  std::vector<float> values(10, 1.0F);
  const ByteStream stream({std::as_writable_bytes(std::span(values))});
  CollectiveCall call =
      AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), kRanks, stream, stream);
  call.params.device.type = DeviceType::kCuda;
  call.stream = group.backend(0).stream();
  FakeNcclControls().faults.failure = nccl::Result::kInvalidArgument;
  FakeNcclControls().faults.fail_at = 1;
  EXPECT_EQ(group.backend(0).backend().Execute(call).code(), StatusCode::kInternal);
  EXPECT_FALSE(group.backend(0).backend().Check().ok());
  FakeNcclControls().faults.Clear();
}

}  // namespace
}  // namespace hora
