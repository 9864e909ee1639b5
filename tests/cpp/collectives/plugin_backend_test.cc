#include "hora/collectives/plugin/plugin_backend.h"

#include <latch>
#include <limits>

#include "collectives/plugin_fake.h"
#include "collectives/plugin_ranks.h"

namespace hora {
namespace {

constexpr std::size_t kPiece = 4096;

class PluginBackendTest : public testing::TestWithParam<int> {
 protected:
  PluginBackendTest() {
    FakeBehaviour().reduces = true;
    FakeBehaviour().fails_at = 0;
    FakeBehaviour().allreduces = 0;
    FakeBehaviour().moves = 0;
    FakeBehaviour().largest = 0;
  }

  const Plugin plugin_{.functions = FakePlugin(), .path = {}, .description = {}};
};

using Floats = std::vector<float>;
ByteStream Stream(Floats& values) {
  return ByteStream({std::as_writable_bytes(std::span(values))});
}
OpParams Sum() { return Params(DType::kFloat32, ReduceOp::kSum); }

TEST_P(PluginBackendTest, ConformsWhenTheLibraryReduces) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  // The fake adds in the order of the ranks, but hora scales before the sum is rounded.
  ExpectConformance(group, {.in_rank_order = false, .edges = {kPiece}});
  EXPECT_EQ(FakeBehaviour().allreduces > 0, GetParam() > 1);
}

TEST_P(PluginBackendTest, HasTheBitsOfOneReductionWhenTheLibraryOnlyMoves) {
  FakeBehaviour().reduces = false;
  PluginRanks group(plugin_, GetParam(), kPiece);
  ExpectConformance(group, {.in_rank_order = true, .edges = {kPiece, 40'000}});
  EXPECT_EQ(FakeBehaviour().allreduces, 0);
}

INSTANTIATE_TEST_SUITE_P(Ranks, PluginBackendTest, testing::Values(1, 2, 3, 4),
                         testing::PrintToStringParamName());

using PluginBackendLogic = PluginBackendTest;
INSTANTIATE_TEST_SUITE_P(Ranks, PluginBackendLogic, testing::Values(3),
                         testing::PrintToStringParamName());

TEST_P(PluginBackendLogic, TakesStepsOfABoundedSize) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  group.RunOk([&](int, CollectiveBackend& backend) {
    Floats values(100'000, 1);
    CollectiveCall call = AllreduceCall(Sum(), group.size(), Stream(values), Stream(values));
    return backend.Execute(call);
  });
  EXPECT_EQ(FakeBehaviour().largest, kPiece);
  EXPECT_EQ(FakeBehaviour().allreduces, 3 * (400'000 / kPiece + 1));
  ExpectAllgathers(group, {.edges = {kPiece, 100'000}});
  ExpectAlltoalls(group, {.edges = {kPiece, 30'000}});
  ExpectReducescatters(group, {.edges = {kPiece, 100'000}});
  EXPECT_LE(FakeBehaviour().largest, kPiece + 3 * 64) << "parts begin at cache lines";
}

// Every rank has NaNs with bits of its own.
TEST_P(PluginBackendLogic, MakesNansEqual) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  group.RunOk([&](int rank, CollectiveBackend& backend) {
    Floats values = {std::bit_cast<float>(0x7FC00001u + static_cast<unsigned>(rank)), 1};
    CollectiveCall call = AllreduceCall(Sum(), group.size(), Stream(values), Stream(values));
    Status status = backend.Execute(call);
    EXPECT_EQ(std::bit_cast<std::uint32_t>(values[0]), 0x7FC00000u);
    EXPECT_EQ(values[1], 3);
    return status;
  });
}

TEST_P(PluginBackendLogic, LeavesExactIntegersToHorasKernels) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  const auto reduce = [&](const OpParams& params) {
    group.RunOk([&](int, CollectiveBackend& backend) {
      std::vector<std::int32_t> values(10, std::numeric_limits<std::int32_t>::max());
      const ByteStream stream({std::as_writable_bytes(std::span(values))});
      CollectiveCall call = AllreduceCall(params, group.size(), stream, stream);
      Status status = backend.Execute(call);
      if (params.reduce_op == ReduceOp::kAverage) {
        EXPECT_EQ(values[3], std::numeric_limits<std::int32_t>::max()) << "the sum wrapped around";
      }
      return status;
    });
  };
  reduce(Params(DType::kInt32, ReduceOp::kSum));
  EXPECT_EQ(FakeBehaviour().allreduces, 3);
  reduce(Params(DType::kInt32, ReduceOp::kAverage));
  reduce(Params(DType::kInt32, ReduceOp::kSum, 0.5));
  EXPECT_EQ(FakeBehaviour().allreduces, 3);
  EXPECT_EQ(FakeBehaviour().moves, 6);
}

TEST_P(PluginBackendLogic, AFailureIsTheGroupsLast) {
  PluginRanks group(plugin_, GetParam(), kPiece, std::chrono::milliseconds(200));
  FakeBehaviour().fails_at = 1;
  std::atomic<int> unplugged = 0;
  const auto statuses = group.Run([&](int, CollectiveBackend& backend) {
    Floats values(10);
    CollectiveCall call = AllreduceCall(Sum(), group.size(), Stream(values), Stream(values));
    const Status first = backend.Execute(call);
    if (first.message().find("the cable is unplugged") != std::string::npos) ++unplugged;
    EXPECT_EQ(backend.Execute(call), first);
    return first;
  });
  for (const Status& status : statuses) {
    EXPECT_EQ(status.code(), StatusCode::kPeerFailed);
    EXPECT_NE(status.message().find("in group 'group"), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("fake: allreduce failed: "), std::string::npos);
  }
  EXPECT_EQ(unplugged, 1);
}

TEST_P(PluginBackendLogic, AnAbortEndsTheCallsOfItsGroup) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  const auto statuses = group.Run([&](int rank, CollectiveBackend& backend) {
    Floats values(10);
    CollectiveCall call = AllreduceCall(Sum(), group.size(), Stream(values), Stream(values));
    if (rank == 1) group.backend(1).Abort();  // and never comes
    return rank == 1 ? Status::Ok() : backend.Execute(call);
  });
  for (const int rank : {0, 2}) {
    EXPECT_EQ(statuses[rank].code(), StatusCode::kPeerFailed);
    EXPECT_NE(statuses[rank].message().find("aborted"), std::string::npos);
  }
}

TEST_P(PluginBackendLogic, ARankThatNeverComesFailsTheGroup) {
  MemoryStore store;
  const auto made = PluginBackend::Create(plugin_, store,
                                          {.rank = 1,
                                           .size = 2,
                                           .names = RankNames({4, 7}),
                                           .group = "lonely",
                                           .bind_address = "127.0.0.1",
                                           .patience = std::chrono::milliseconds(50)});
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), StatusCode::kPeerFailed);
  EXPECT_NE(made.error().message().find("rank 7 cannot join group 'lonely' of 2"),
            std::string::npos)
      << made.error().message();
  EXPECT_NE(made.error().message().find("nobody set 'fake/lonely/0'"), std::string::npos);
}

}  // namespace
}  // namespace hora
