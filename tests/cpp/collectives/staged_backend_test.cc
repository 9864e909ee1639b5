// Host staging does with tensors of a device what its inner backend does with the host's.
#include <algorithm>

#include "collectives/staged_ranks.h"
#include "hora/collectives/adasum.h"

namespace hora {
namespace {

constexpr std::size_t kPiece = 4096;

class StagedConformance : public testing::TestWithParam<int> {};

TEST_P(StagedConformance, PassesOverSharedMemory) {
  StagedRanks group(ShmBackends(GetParam()), kPiece);
  ExpectConformance(group, {.in_rank_order = true, .edges = {kPiece}});
}

TEST_P(StagedConformance, PassesOverTcp) {
  StagedRanks group(TcpBackends(GetParam()), kPiece);
  ExpectConformance(group, {.in_rank_order = true, .edges = {kPiece, 3 * kPiece}});
}

INSTANTIATE_TEST_SUITE_P(Ranks, StagedConformance, testing::Values(1, 2, 3),
                         testing::PrintToStringParamName());

TEST(StagedBackend, SupportsWhatTheInnerOneDoesAndAdasum) {
  StagedRanks group(ShmBackends(1), kPiece);
  CollectiveBackend& backend = group.backend(0);
  EXPECT_TRUE(backend.Supports(Params(DType::kBFloat16, ReduceOp::kAverage)));
  EXPECT_FALSE(backend.Supports(Params(DType::kBool, ReduceOp::kAverage)));
  EXPECT_TRUE(backend.Supports(Params(DType::kFloat16, ReduceOp::kAdasum)));
  EXPECT_FALSE(backend.Supports(Params(DType::kInt32, ReduceOp::kAdasum)));
}

// --- What the inner backend is called with -------------------------------------------------------

// Negates every byte of an input, in a group of one, and notes what it was given.
class Negation final : public CollectiveBackend {
 public:
  explicit Negation(std::vector<std::uint64_t>& bytes) : bytes_(bytes) {}

  std::string_view name() const override { return "negation"; }
  bool Supports(const OpParams& params) const override {
    return params.device.type == DeviceType::kCpu;
  }
  void Retune(const Tuning& tuning) override { bytes_.push_back(tuning.chunk_bytes); }
  Status Execute(CollectiveCall& call) override {
    EXPECT_EQ(call.params.device, Device{});
    if (call.bytes_per_rank.empty()) return Status::Ok();
    bytes_.push_back(call.bytes_per_rank[0]);
    Bytes bytes(call.inputs[0].size());
    call.inputs[0].Gather(0, bytes);
    for (std::byte& byte : bytes) byte = ~byte;
    call.outputs[0].Scatter(0, bytes);
    return Status::Ok();
  }

 private:
  std::vector<std::uint64_t>& bytes_;
};

class StagedPieces : public testing::Test {
 protected:
  // The sizes of the inner calls for `bytes` bytes, which lie in so many segments.
  std::vector<std::uint64_t> CutsOf(OpKind kind, std::size_t bytes, int segments,
                                    std::size_t piece_bytes = kPiece, bool in_place = false) {
    std::vector<std::uint64_t> cuts;
    Backends inner;
    inner.push_back(std::make_unique<Negation>(cuts));
    StagedRanks group(std::move(inner), piece_bytes);
    const Bytes contents = RandomBytes(bytes, bytes + 1);
    Pieces in(contents, segments, 1, 5), out(Bytes(bytes), segments, 1, 6);
    CollectiveCall call = AllreduceCall(Params(DType::kUInt8, ReduceOp::kSum), 1, in.Stream(),
                                        in_place ? in.Stream() : out.Stream());
    call.params.kind = kind;
    call.params.root_rank = 0;
    const Status status = group.backend(0).Execute(call);
    EXPECT_TRUE(status.ok()) << status.ToString();
    launches_ = group.device().launches();
    if (in_place) return cuts;
    Bytes negated = contents;
    for (std::byte& byte : negated) byte = ~byte;
    EXPECT_TRUE(out.Contents() == negated) << bytes << " bytes in " << segments << " segments";
    return cuts;
  }

  int launches_ = 0;  // of the last one
};

TEST_F(StagedPieces, AreCutEvenlyWhateverTheTensorsAre) {
  for (const OpKind kind : {OpKind::kAllreduce, OpKind::kBroadcast}) {
    for (const std::size_t bytes :
         {std::size_t{0}, std::size_t{1}, kPiece - 1, kPiece, kPiece + 1, 2 * kPiece - 1,
          2 * kPiece, 2 * kPiece + 1, 3 * kPiece, 3 * kPiece + 1, 9 * kPiece + 65}) {
      const auto cuts = CutsOf(kind, bytes, 1);
      EXPECT_EQ(cuts, CutsOf(kind, bytes, 40)) << "the cut depends on the segments";
      EXPECT_EQ(cuts.size(), std::max<std::size_t>(1, (bytes + kPiece - 1) / kPiece)) << bytes;
      EXPECT_EQ(std::accumulate(cuts.begin(), cuts.end(), std::uint64_t{0}), bytes);
      for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        EXPECT_EQ(cuts[i], cuts[0]);
        EXPECT_EQ(cuts[i] % 64, 0u) << "an element may be cut";
        EXPECT_LE(cuts[i], kPiece);
      }
    }
  }
}

TEST_F(StagedPieces, AreACacheLineAtLeast) {
  EXPECT_EQ(CutsOf(OpKind::kAllreduce, 200, 3, 1), (std::vector<std::uint64_t>{64, 64, 64, 8}));
}

TEST_F(StagedPieces, AreNotMadeOfWhatIsNotElementWise) {
  EXPECT_EQ(CutsOf(OpKind::kAlltoall, 3 * kPiece, 4), std::vector<std::uint64_t>{3 * kPiece});
  EXPECT_EQ(CutsOf(OpKind::kAllgather, 3 * kPiece, 4), std::vector<std::uint64_t>{3 * kPiece});
}

TEST_F(StagedPieces, GoDownInOneLaunchAndUpInAnother) {
  CutsOf(OpKind::kAllreduce, kPiece, 40);
  EXPECT_EQ(launches_, 2);
  CutsOf(OpKind::kBroadcast, kPiece, 40, kPiece, /*in_place=*/true);
  EXPECT_EQ(launches_, 1) << "the root's memory has what it sends";
}

TEST(StagedBackend, HandsOnBarriersAndLeavesTuningToTheOwner) {
  std::vector<std::uint64_t> seen;
  Backends inner;
  inner.push_back(std::make_unique<Negation>(seen));
  StagedRanks group(std::move(inner), kPiece);
  group.Retune({.chunk_bytes = 12345});
  EXPECT_EQ(seen, std::vector<std::uint64_t>{12345});  // by DeviceRank, once
  CollectiveCall barrier{.params = {.kind = OpKind::kBarrier}};
  EXPECT_TRUE(group.backend(0).Execute(barrier).ok());
}

TEST(StagedBackend, KeepsNoMorePinnedMemoryThanTwoOperationsNeed) {
  StagedRanks group(ShmBackends(2), kPiece);
  ExpectMixedOps(group, {.edges = {kPiece}}, 200);
  // Two ranks, two operations with three areas each; powers of two from 4 to 64 KiB.
  EXPECT_LE(group.device().allocated_pinned(), 2u * 2 * 3 * 5);
}

// --- Adasum --------------------------------------------------------------------------------------

class StagedAdasum : public testing::TestWithParam<DType> {};

// By a tensor of the host and by one of the device: the same arithmetic.
TEST_P(StagedAdasum, HasTheBitsOfTheHosts) {
  constexpr int kRanks = 3;
  const std::size_t element = SizeOf(GetParam());
  const std::vector<std::uint64_t> tensors = {7 * element, 0, 3000 * element, element};
  const std::size_t elements = 3008;
  for (const RankSet& absent : {RankSet(), RankSet::Of(1)}) {
    for (const bool in_place : {false, true}) {
      const auto operands = RandomOperands(GetParam(), elements, kRanks, 3);
      std::vector<Bytes> of_host(kRanks), of_device(kRanks);
      const auto run = [&](int rank, std::vector<Bytes>& results, const auto& execute) {
        Pieces in(operands[rank], 5, element, 1), out(Bytes(operands[rank].size()), 4, element, 2);
        CollectiveCall call = AllreduceCall(Params(GetParam(), ReduceOp::kAdasum, 0.5, 3), kRanks,
                                            in.Stream(), in_place ? in.Stream() : out.Stream());
        call.absent = absent;
        call.tensor_bytes = tensors;
        const Status status = execute(call);
        results[rank] = in_place ? in.Contents() : out.Contents();
        return status;
      };
      ShmGroup host(kRanks, 1024);
      host.RunOk([&](int rank, ShmBackend& backend) {
        return run(rank, of_host, [&](auto& call) { return RunAdasum(backend, rank, call); });
      });
      StagedRanks staged(ShmBackends(kRanks), kPiece);
      staged.RunOk([&](int rank, CollectiveBackend& backend) {
        return run(rank, of_device, [&](auto& call) { return backend.Execute(call); });
      });
      EXPECT_TRUE(of_device == of_host);
      EXPECT_TRUE(of_device[0] == of_device[1]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, StagedAdasum,
                         testing::Values(DType::kFloat16, DType::kBFloat16, DType::kFloat32,
                                         DType::kFloat64),
                         [](const auto& tested) { return std::string(ToString(tested.param)); });

}  // namespace
}  // namespace hora
