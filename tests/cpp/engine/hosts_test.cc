// The engine over several hosts: what one host does must come out the same.
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <numeric>
#include <string>
#include <vector>

#include "support/rank_group.h"

namespace hora::testing {
namespace {

RankGroupOptions OnHosts(std::vector<int> hosts) {
  RankGroupOptions options;
  options.size = std::accumulate(hosts.begin(), hosts.end(), 0);
  options.hosts = std::move(hosts);
  options.config.stall_abort = std::chrono::seconds(30);
  return options;
}

float SumOfRanks(int size) { return static_cast<float>(size * (size + 1)) / 2; }

void ExpectAllreduce(RankContext& rank, const std::string& name, std::size_t count) {
  std::vector<float> values(count, static_cast<float>(rank.rank() + 1));
  const Status status = rank.Wait(rank.Allreduce(name, values));
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(values, std::vector<float>(count, SumOfRanks(rank.size()))) << name;
}

class EngineOnHosts : public ::testing::TestWithParam<std::vector<int>> {};

INSTANTIATE_TEST_SUITE_P(Layouts, EngineOnHosts,
                         ::testing::Values(std::vector<int>{1, 1}, std::vector<int>{2, 2},
                                           std::vector<int>{2, 1}, std::vector<int>{3, 1, 2}),
                         [](const auto& layout) {
                           std::string name;
                           for (const int ranks : layout.param) name += std::to_string(ranks);
                           return name;
                         });

TEST_P(EngineOnHosts, ReducesSmallAndLargeAgainAndAgain) {
  RunRanks(OnHosts(GetParam()), [](RankContext& rank) {
    for (int round = 0; round < 3; ++round) {
      for (const std::size_t count : {1u, 14u, 1000u, 300'000u, 3'000'000u}) {
        ExpectAllreduce(rank, "sum" + std::to_string(count), count);
      }
    }
  });
}

TEST_P(EngineOnHosts, RunsEveryOperation) {
  RunRanks(OnHosts(GetParam()), [](RankContext& rank) {
    const int size = rank.size();
    const auto mine = static_cast<float>(rank.rank());
    for (int root = 0; root < size; ++root) {
      std::vector<float> values(5000, mine);
      ASSERT_TRUE(rank.Wait(rank.Broadcast("b" + std::to_string(root), values, root)).ok());
      EXPECT_EQ(values, std::vector<float>(5000, static_cast<float>(root)));
    }
    std::vector<float> rows(static_cast<std::size_t>(rank.rank() + 1) * 700, mine);
    const auto gathered = rank.Allgather("g", rows);
    ASSERT_TRUE(rank.Wait(gathered).ok());
    std::vector<float> expected;
    for (int r = 0; r < size; ++r)
      expected.insert(expected.end(), (r + 1) * 700, static_cast<float>(r));
    EXPECT_EQ(FloatsOf(*gathered->gathered().front()), expected);

    std::vector<float> pieces(static_cast<std::size_t>(size) * 300, mine);
    const auto exchanged =
        rank.Alltoall("a", pieces, std::vector<std::int64_t>(static_cast<std::size_t>(size), 300));
    ASSERT_TRUE(rank.Wait(exchanged).ok());
    expected.clear();
    for (int r = 0; r < size; ++r) expected.insert(expected.end(), 300, static_cast<float>(r));
    EXPECT_EQ(FloatsOf(*exchanged->gathered().front()), expected);

    std::vector<float> operand(static_cast<std::size_t>(size) * 1000, mine + 1);
    std::vector<float> share(1000);
    ASSERT_TRUE(rank.Wait(rank.Reducescatter("r", operand, share)).ok());
    EXPECT_EQ(share, std::vector<float>(1000, SumOfRanks(size)));
    ASSERT_TRUE(rank.Wait(rank.Barrier("done")).ok());
  });
}

TEST_P(EngineOnHosts, SetsOfSomeRanksWorkByThemselves) {
  RunRanks(OnHosts(GetParam()), [](RankContext& rank) {
    const int last = rank.size() - 1;
    const int ends = rank.AddSet({0, last});
    const int lonely = rank.AddSet({last});
    if (rank.rank() == 0 || rank.rank() == last) {
      RankContext in = rank.In(ends);
      for (const std::size_t count : {1u, 200'000u}) ExpectAllreduce(in, "ends", count);
    }
    if (rank.rank() == last) {
      RankContext in = rank.In(lonely);
      ExpectAllreduce(in, "alone", 100);
    }
    ExpectAllreduce(rank, "all", 100);
    rank.RemoveSet(ends);
    ExpectAllreduce(rank, "after", 100);
  });
}

TEST(EngineOnGloo, WarnsOnceThatTensorsTravelInTheOpen) {
  RankGroupOptions options = OnHosts({2, 1});
  const auto test = std::filesystem::read_symlink("/proc/self/exe");
  options.config.network.engine = "gloo";
  options.config.network.plugin_directory =
      test.parent_path().parent_path().parent_path() / "plugins";
  if (!std::filesystem::exists(options.config.network.plugin_directory + "/hora_gloo.so")) {
    GTEST_SKIP() << "hora was built without Gloo (Debian: libgloo-dev)";
  }
  ::testing::internal::CaptureStderr();
  RunRanks(options, [](RankContext& rank) { ExpectAllreduce(rank, "sum", 1000); });
  const std::string said = ::testing::internal::GetCapturedStderr();
  const std::string warning = "hora[rank 0] warning: tensors travel between hosts over gloo (Gloo ";
  const std::size_t at = said.find(warning);
  ASSERT_NE(at, std::string::npos) << said;
  EXPECT_NE(said.find("neither authenticates nor encrypts", at), std::string::npos) << said;
  EXPECT_NE(said.find("HORA_BACKEND=tcp", at), std::string::npos) << said;
  EXPECT_EQ(said.find("tensors travel", said.find("tensors travel") + 1), std::string::npos)
      << said;
}

TEST_P(EngineOnHosts, JoinsAreAgreedByAllHosts) {
  RunRanks(OnHosts(GetParam()), [](RankContext& rank) {
    const int last = rank.size() - 1;
    if (rank.rank() != last) {
      std::vector<float> values(1000, 1.0f);
      ASSERT_TRUE(rank.Wait(rank.Allreduce("uneven", values)).ok());
      EXPECT_EQ(values, std::vector<float>(1000, static_cast<float>(last)));
    }
    ASSERT_TRUE(rank.Wait(rank.Join()).ok());
  });
}

TEST_P(EngineOnHosts, AnAbortReachesEveryHostWithItsCause) {
  RunRanks(OnHosts(GetParam()), [](RankContext& rank) {
    const int last = rank.size() - 1;
    if (rank.rank() == last) {
      rank.engine().Abort(Status(StatusCode::kPeerFailed, "the last rank fell over a cable"));
    }
    std::vector<float> values(1000, 1.0f);
    const Status status = rank.Wait(rank.Allreduce("never", values));
    EXPECT_EQ(status.code(), StatusCode::kPeerFailed);
    EXPECT_NE(status.message().find("fell over a cable"), std::string::npos) << status.message();
  });
}

TEST_P(EngineOnHosts, MistakesAreToldAlikeEverywhere) {
  RunRanks(OnHosts(GetParam()), [](RankContext& rank) {
    std::vector<float> values(rank.rank() == 0 ? 10 : 11, 1.0f);
    const Status status = rank.Wait(rank.Allreduce("shapes", values));
    EXPECT_EQ(status.code(), StatusCode::kMismatch) << status.ToString();
    ExpectAllreduce(rank, "and on", 10);
  });
}

}  // namespace
}  // namespace hora::testing
