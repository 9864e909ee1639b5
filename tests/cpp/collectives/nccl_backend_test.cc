// NCCL's backend over a fake NCCL: what is asked of every backend, and what only a device does.
#include <thread>

#include "collectives/nccl_alone.h"
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

TEST(NcclBackend, CallsNcclAloneWhereThatIsAskedFor) {
  const auto device = std::make_shared<SimulatedDevice>();
  const auto operations_of = [](BackendGroup& group) {
    const int before = FakeNcclControls().operations;
    float value = 1, sum = 0;
    const ByteStream in({std::as_writable_bytes(std::span(&value, 1))});
    const ByteStream out({std::as_writable_bytes(std::span(&sum, 1))});
    const OpParams params = Params(DType::kFloat32, ReduceOp::kAverage, 3);
    for (CollectiveCall call :
         {AllreduceCall(params, 1, in, out), AllreduceCall(params, 1, in, in),
          ReducescatterCall(params, {in}, out), AllgatherCall(in, {out}),
          BroadcastCall(0, 1, in, out), AlltoallCall({sizeof(float)}, {in}, {out})}) {
      group.RunOk([&](int, CollectiveBackend& backend) { return backend.Execute(call); });
    }
    EXPECT_EQ(value, 3);  // what was reduced in place
    EXPECT_EQ(sum, 3);
    return FakeNcclControls().operations - before;
  };
  NcclRanks usual(1);
  EXPECT_EQ(operations_of(usual), 0);
  NcclAlone alone(device, FakeNccl());
  ASSERT_TRUE(alone.is_there());
  EXPECT_EQ(operations_of(alone), 7);  // what goes to oneself is sent and received
}

TEST(NcclBackend, DoesAllOfItAlone) {
  FakeNcclControls().polls = 2;
  ExpectAllOfNcclAlone(std::make_shared<SimulatedDevice>(), FakeNccl());
  FakeNcclControls().polls = 0;
  EXPECT_EQ(FakeNcclControls().communicators, 0);
  EXPECT_EQ(FakeNcclControls().registrations, 0);
  EXPECT_EQ(FakeNcclControls().allocations, 0);
}

TEST(NcclBackend, LeavesTheCallersDeviceAsItIs) {
  const auto device = std::make_shared<SimulatedDevice>(2);
  const auto current = [&] { return *device->Current(); };
  std::thread caller([&] {  // a thread of its own: devices are the thread's
    NcclAlone group(device, FakeNccl());
    ASSERT_TRUE(group.is_there());
    ASSERT_TRUE(device->MakeCurrent(1).ok());
    float value = 1;
    const ByteStream stream({std::as_writable_bytes(std::span(&value, 1))});
    CollectiveCall call = AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), 1, stream, stream);
    EXPECT_TRUE(group.backend(0).Execute(call).ok());
    EXPECT_EQ(current(), 1);
  });
  caller.join();
}

// Tensors that lie together need no packing, but on other ranks they may lie apart.
TEST(NcclBackend, ABatchIsOfRegisteredMemoryOnAllRanksOrOnNone) {
  for (const bool fused : {true, false}) {
    NcclRanks group(2);
    std::vector<Bytes> results(2);
    group.RunOk([&](int rank, CollectiveBackend& backend) {
      std::vector<float> values(64, static_cast<float>(rank + 1));
      Bytes contents(sizeof(float) * values.size());
      std::memcpy(contents.data(), values.data(), contents.size());
      Pieces tensors(contents, rank == 0 ? 1 : 5, sizeof(float), 3);
      CollectiveCall call = AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), 2,
                                          tensors.Stream(), tensors.Stream());
      call.fused = fused;
      Status status = backend.Execute(call);
      results[static_cast<std::size_t>(rank)] = tensors.Contents();
      return status;
    });
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(FakeNcclControls().registrations, fused ? 2 : 0);
    EXPECT_EQ(FakeNcclControls().allocations, fused ? 2 : 0);
  }
  EXPECT_EQ(FakeNcclControls().allocations, 0);
}

class NcclMemory : public testing::Test {
 protected:
  void TearDown() override {
    FakeNcclControls().faults.Clear();
    EXPECT_EQ(FakeNcclControls().allocations, 0);
  }

  Status Allreduce(NcclRanks& group, std::size_t elements) {
    std::vector<float> values(elements, 1);
    const ByteStream stream({std::as_writable_bytes(std::span(values))});
    CollectiveCall call =
        AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum, 2), 1, stream, stream);
    call.params.device.type = DeviceType::kCuda;
    call.fused = true;
    call.stream = group.backend(0).stream();
    Status status = group.backend(0).backend().Execute(call);
    if (status.ok()) status = group.backend(0).Await();
    EXPECT_EQ(values.back(), status.ok() ? 2 : 1);
    return status;
  }

  static NcclRanks AloneWith(MakeRoom make_room) {
    return NcclRanks(1, kNcclPatience, {.call_alone = true, .make_room = std::move(make_room)});
  }
};

// Other ranks may have theirs, and NCCL waits for ever where some have and others have not.
TEST_F(NcclMemory, ThatCannotBeHadOrRegisteredOnOneRankIsNotDoneWithout) {
  for (const bool registers : {true, false}) {
    FakeNcclFaults& faults = FakeNcclControls().faults;
    if (registers) faults.allocation = nccl::Result::kUnhandledCudaError;
    faults.registration = !registers;
    NcclRanks group = AloneWith({});
    const int operations = FakeNcclControls().operations;
    const Status status = Allreduce(group, 1000);
    EXPECT_EQ(status.code(), StatusCode::kResource) << status.ToString();
    for (const char* part : {"rank 0", registers ? "ncclMemAlloc: unhandled cuda error"
                                                 : "cannot register 4000 bytes: invalid usage"}) {
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    }
    EXPECT_EQ(FakeNcclControls().operations, operations);
    EXPECT_EQ(group.device().allocated_device(), 0u);
    EXPECT_FALSE(group.backend(0).backend().Check().ok()) << "the group has ended";
    faults.Clear();
  }
}

TEST_F(NcclMemory, AsksOthersToGiveMemoryBack) {
  int asked = 0;
  SimulatedDevice* device = nullptr;
  NcclRanks group = AloneWith([&] {
    ++asked;
    device->LimitMemory(SIZE_MAX);
  });
  device = &group.device();
  device->LimitMemory(100);
  const Status status = Allreduce(group, 1000);
  EXPECT_TRUE(status.ok()) << status.message();
  EXPECT_EQ(asked, 1);
}

TEST_F(NcclMemory, SaysHowMuchIsMissingWhereAndWhatTakesLess) {
  NcclRanks group = AloneWith({});
  group.device().LimitMemory(100);
  const Status status = Allreduce(group, 1000);
  EXPECT_EQ(status.code(), StatusCode::kResource);
  for (const char* part : {"cuda:0", "4000 bytes", "HORA_FUSION_THRESHOLD_BYTES"}) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
  // Peers would wait for what was not put on this rank's stream: the group has ended.
  EXPECT_FALSE(group.backend(0).backend().Check().ok());
}

}  // namespace
}  // namespace hora
