// NCCL's backend over a fake NCCL: what is asked of every backend, and what only a device does.
#include "collectives/nccl_ranks.h"

namespace hora {
namespace {

void ExpectAllButAdasum(BackendGroup& group) {
  const Conformance conformance{
      .in_rank_order = false, .every_reduction = false, .edges = {4096, 40000}};
  ExpectAllreduces(group, conformance);
  ExpectEveryReduction(group, conformance);
  ExpectAbsences(group, conformance);
  ExpectReducescatters(group, conformance);
  ExpectAllgathers(group, conformance);
  ExpectBroadcasts(group, conformance);
  ExpectAlltoalls(group, conformance);
  ExpectMixedOps(group, conformance, 200);
}

class NcclConformance : public testing::TestWithParam<int> {
 protected:
  void SetUp() override { FakeNcclControls().polls = 2; }
  void TearDown() override {
    FakeNcclControls().polls = 0;
    EXPECT_EQ(FakeNcclControls().communicators, 0);
    EXPECT_EQ(FakeNcclControls().registrations, 0);
    EXPECT_EQ(FakeNcclControls().late, 0);
  }
};

TEST_P(NcclConformance, DoesWhatEveryBackendDoes) {
  NcclRanks group(GetParam());
  ExpectAllButAdasum(group);
}

INSTANTIATE_TEST_SUITE_P(Ranks, NcclConformance, testing::Values(1, 2, 3, 5));

OpParams OnDevice(DType dtype, ReduceOp op, double prescale = 1) {
  OpParams params = Params(dtype, op, prescale);
  params.device.type = DeviceType::kCuda;
  return params;
}

TEST(NcclBackend, SaysWhatItLeavesToOthers) {
  NcclRanks group(2);
  const NcclBackend& backend = group.backend(0).backend();
  EXPECT_TRUE(backend.Supports(OnDevice(DType::kInt64, ReduceOp::kSum)));
  EXPECT_TRUE(backend.Supports(OnDevice(DType::kBFloat16, ReduceOp::kAverage, 0.5)));
  EXPECT_FALSE(backend.Supports(OnDevice(DType::kInt64, ReduceOp::kAverage)));
  EXPECT_FALSE(backend.Supports(OnDevice(DType::kInt8, ReduceOp::kSum, 0.5)));
  EXPECT_FALSE(backend.Supports(OnDevice(DType::kInt16, ReduceOp::kSum)));
  EXPECT_FALSE(backend.Supports(OnDevice(DType::kFloat32, ReduceOp::kAdasum)));
  EXPECT_FALSE(backend.Supports(Params(DType::kFloat32, ReduceOp::kSum)));  // on the host
}

TEST(NcclBackend, ResultsComeWithTheStreamAndOneTensorIsNotCopied) {
  NcclRanks group(2);
  std::vector<std::vector<float>> values(2, std::vector<float>(1000, 1));
  for (int rank : group.ranks()) group.device().Hold(group.backend(rank).stream());
  const auto put = [&](int rank) {
    const ByteStream stream({std::as_writable_bytes(std::span(values[rank]))});
    CollectiveCall call =
        AllreduceCall(OnDevice(DType::kFloat32, ReduceOp::kAverage), 2, stream, stream);
    call.stream = group.backend(rank).stream();
    return group.backend(rank).backend().Execute(call);
  };
  for (int rank : group.ranks()) {  // one after the other: nobody waits for a peer
    values[rank].assign(1000, static_cast<float>(3 * rank));
    EXPECT_TRUE(put(rank).ok());
  }
  EXPECT_EQ(values[0][0], 0);
  EXPECT_EQ(values[1][0], 3);
  for (int rank : group.ranks()) group.device().Release(group.backend(rank).stream());
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    float last = 0;  // comes after all that is on the stream
    const ByteStream stream({std::as_writable_bytes(std::span(&last, 1))});
    CollectiveCall call = AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), 2, stream, stream);
    Status status = backend.Execute(call);
    EXPECT_EQ(values[rank], std::vector<float>(1000, 1.5F));
    return status;
  });
  EXPECT_EQ(group.device().launches(), 0);
}

}  // namespace
}  // namespace hora
