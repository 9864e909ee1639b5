// What NCCL's backend puts on a stream can be captured once and replayed.
#include <map>
#include <utility>

#include "collectives/nccl_ranks.h"

namespace hora {
namespace {

constexpr int kRanks = 2;
using Floats = std::vector<float>;

OpParams OfFloats(ReduceOp op, double prescale = 1) {
  return Params(DType::kFloat32, op, prescale);
}

// The calls of a training step, on memory that stays where it is: of every kind, with the fusion
// memory and without.
class Step {
 public:
  explicit Step(int rank) : rank_(rank) {
    const std::size_t to_me = rank == 0 ? 70 : 33;
    const std::pair<const char*, std::size_t> sizes[] = {
        {"a", 10},      {"b", 300},   {"c", 41},         {"sum", 41},       {"max", 41},
        {"gather", 5},  {"of 0", 5},  {"of 1", 5},       {"root", 17},      {"received", 17},
        {"to 0", 70},   {"to 1", 33}, {"from 0", to_me}, {"from 1", to_me}, {"share 0", 9},
        {"share 1", 9}, {"share", 9}};
    for (const auto& [name, size] : sizes) memory_[name].resize(size);
  }

  // Other numbers in every round and rank.
  void Fill(int round) {
    float next = static_cast<float>(10000 * round + 100 * rank_);
    for (auto& [name, floats] : memory_) {
      for (float& value : floats) value = next += 1;
    }
  }

  std::vector<CollectiveCall> Calls() {
    const std::uint64_t to_0 = On({"to 0"}).size(), to_1 = On({"to 1"}).size();
    std::vector<CollectiveCall> calls;
    calls.push_back(
        AllreduceCall(OfFloats(ReduceOp::kAverage, 0.5), kRanks, On({"a", "b"}), On({"a", "b"})));
    calls.back().fused = true;
    calls.push_back(AllreduceCall(OfFloats(ReduceOp::kSum), kRanks, On({"c"}), On({"sum"})));
    calls.push_back(AllreduceCall(OfFloats(ReduceOp::kMax), kRanks, On({"c"}), On({"max"})));
    calls.back().absent = RankSet::Of(1);
    calls.push_back(AllgatherCall(On({"gather"}), {On({"of 0"}), On({"of 1"})}));
    calls.push_back(BroadcastCall(1, kRanks, On({"root"}), On({"received"})));
    calls.push_back(AlltoallCall({to_0, to_1, to_0, to_1}, {On({"to 0"}), On({"to 1"})},
                                 {On({"from 0"}), On({"from 1"})}));
    calls.push_back(ReducescatterCall(OfFloats(ReduceOp::kSum), {On({"share 0"}), On({"share 1"})},
                                      On({"share"})));
    return calls;
  }

  const std::map<std::string, Floats>& memory() const { return memory_; }

 private:
  ByteStream On(std::initializer_list<const char*> names) {
    std::vector<std::span<std::byte>> segments;
    for (const char* name : names) {
      segments.push_back(std::as_writable_bytes(std::span(memory_.at(name))));
    }
    return ByteStream(std::move(segments));
  }

  const int rank_;
  std::map<std::string, Floats> memory_;
};

class NcclGraph : public testing::Test {
 protected:
  void SetUp() override { FakeNcclControls().polls = 2; }
  void TearDown() override {
    FakeNcclControls().polls = 0;
    EXPECT_EQ(FakeNcclControls().communicators, 0);
  }
};

// Puts the step on the stream; the host waits for nothing.
void Put(NcclOnHost& rank, Step& step) {
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
  std::vector<Step> steps = {Step(0), Step(1)};
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

  std::vector<Step> eager = {Step(0), Step(1)};
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

}  // namespace
}  // namespace hora
