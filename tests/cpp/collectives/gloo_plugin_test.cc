// Gloo over TCP, between threads of this process.
#include <latch>

#include "collectives/plugin_ranks.h"

namespace hora {
namespace {

constexpr std::size_t kPiece = 32u << 10;

class GlooPlugin : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(PluginDirectory() / "hora_gloo.so")) {
      GTEST_SKIP() << "hora was built without Gloo (Debian: libgloo-dev)";
    }
    auto plugin = OpenPlugin("gloo", PluginDirectory());
    ASSERT_TRUE(plugin) << plugin.error().ToString();
    plugin_ = *plugin;
  }

  Plugin plugin_;
};

TEST_P(GlooPlugin, Conforms) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  ASSERT_TRUE(group.complete());
  ExpectConformance(group, {.in_rank_order = false, .edges = {kPiece}});
}

INSTANTIATE_TEST_SUITE_P(Ranks, GlooPlugin, testing::Values(1, 2, 3, 4),
                         testing::PrintToStringParamName());

// Two ranks have a way of their own, with four pieces of 512 KiB under way.
using GlooPluginOfTwo = GlooPlugin;
INSTANTIATE_TEST_SUITE_P(Ranks, GlooPluginOfTwo, testing::Values(2),
                         testing::PrintToStringParamName());

TEST_P(GlooPluginOfTwo, ReducesManyPieces) {
  PluginRanks group(plugin_, GetParam(), 16u << 20);
  ASSERT_TRUE(group.complete());
  for (const std::size_t count : {16'385u, 131'072u, 131'073u, 524'288u, 1'500'001u}) {
    const auto statuses = group.Run([&](int rank, CollectiveBackend& backend) {
      std::vector<std::int32_t> values(count);
      for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<std::int32_t>(i) * (rank + 1);
      const ByteStream stream({std::as_writable_bytes(std::span(values))});
      CollectiveCall call =
          AllreduceCall(Params(DType::kInt32, ReduceOp::kSum), group.size(), stream, stream);
      const Status status = backend.Execute(call);
      for (std::size_t i = 0; i < count; ++i) {
        if (values[i] != static_cast<std::int32_t>(i) * 3) {
          ADD_FAILURE() << "element " << i << " of " << count << " on rank " << rank;
          break;
        }
      }
      return status;
    });
    for (const Status& status : statuses) EXPECT_TRUE(status.ok()) << status.ToString();
  }
}

using GlooPluginFailure = GlooPlugin;
INSTANTIATE_TEST_SUITE_P(Ranks, GlooPluginFailure, testing::Values(3),
                         testing::PrintToStringParamName());

TEST_P(GlooPluginFailure, DescribesItself) {
  EXPECT_NE(plugin_.description.find("Gloo 0."), std::string::npos) << plugin_.description;
}

// Two ranks are in the middle of an operation for which the third never comes.
void ExpectEnd(PluginRanks& group, const std::function<void()>& end) {
  const auto statuses = group.Run([&](int rank, CollectiveBackend& backend) {
    if (rank == 2) {
      end();
      return Status::Ok();
    }
    std::vector<float> values(100'000);
    const ByteStream stream({std::as_writable_bytes(std::span(values))});
    CollectiveCall call =
        AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), group.size(), stream, stream);
    const Status status = backend.Execute(call);
    EXPECT_EQ(backend.Execute(call), status);
    return status;
  });
  for (const int rank : {0, 1}) {
    EXPECT_EQ(statuses[rank].code(), StatusCode::kPeerFailed) << statuses[rank].ToString();
  }
}

TEST_P(GlooPluginFailure, AnAbortEndsAllRanks) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  ASSERT_TRUE(group.complete());
  ExpectEnd(group, [&] {
    for (const int rank : group.ranks()) group.backend(rank).Abort();
  });
}

TEST_P(GlooPluginFailure, ARankThatIsGoneEndsTheOthers) {
  PluginRanks group(plugin_, GetParam(), kPiece);
  ASSERT_TRUE(group.complete());
  ExpectEnd(group, [&] { group.backend(2).Abort(); });
}

TEST_P(GlooPluginFailure, PatienceEnds) {
  PluginRanks group(plugin_, GetParam(), kPiece, std::chrono::milliseconds(300));
  ASSERT_TRUE(group.complete());
  ExpectEnd(group, [] {});
}

TEST_P(GlooPluginFailure, ARankThatNeverComesFailsTheGroup) {
  MemoryStore store;
  const auto made = PluginBackend::Create(plugin_, store,
                                          {.rank = 1,
                                           .size = 2,
                                           .names = {},
                                           .group = "lonely",
                                           .bind_address = "127.0.0.1",
                                           .patience = std::chrono::milliseconds(100)});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("nobody set 'gloo/lonely/"), std::string::npos)
      << made.error().message();
}

TEST_P(GlooPluginFailure, AnAddressThatIsNotOursIsNamed) {
  MemoryStore store;
  const auto made = PluginBackend::Create(plugin_, store,
                                          {.rank = 0,
                                           .size = 2,
                                           .names = {},
                                           .group = "elsewhere",
                                           .bind_address = "192.0.2.1",
                                           .patience = std::chrono::milliseconds(100)});
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message().find("192.0.2.1"), std::string::npos) << made.error().message();
}

}  // namespace
}  // namespace hora
