// A job over several hosts, all of whose ports strangers attack: it stays exact and open to its
// members. Under AddressSanitizer this is also the proof that nothing else than a hello is read of
// who has no key.
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "engine/stranger.h"
#include "support/rank_group.h"

namespace hora::testing {
namespace {

constexpr int kRanks = 4;

struct Planes {
  const char* control;
  const char* data;
  Protection protection;  // of the control plane
};

class Strangers : public ::testing::TestWithParam<Planes> {
 protected:
  static RankGroupOptions Job() {
    RankGroupOptions options;
    options.size = kRanks;
    options.hosts = {2, 2};
    options.config.network.control_plane = GetParam().control;
    options.config.network.data_plane = GetParam().data;
    options.config.network.heartbeat = std::chrono::seconds(20);  // sanitizers on a busy machine
    return options;
  }
};

INSTANTIATE_TEST_SUITE_P(Planes, Strangers,
                         ::testing::Values(Planes{"tls", "tls", Protection::kTls},
                                           Planes{"tls", "auth", Protection::kTls},
                                           Planes{"mac", "auth", Protection::kMac}),
                         [](const auto& planes) {
                           return std::string(planes.param.control) + "And" + planes.param.data;
                         });

// Sums of small whole numbers are exact in any order.
void ExpectExactSums(RankContext& rank, int step) {
  for (const std::size_t count : {1u, 1000u, 200'000u}) {
    std::vector<float> values(count);
    std::vector<float> expected(count);
    for (std::size_t i = 0; i < count; ++i) {
      const auto base = static_cast<float>((i * 7 + static_cast<std::size_t>(step) * 13) % 1000);
      values[i] = base * static_cast<float>(rank.rank() + 1);
      expected[i] = base * (kRanks * (kRanks + 1) / 2);
    }
    const Status status = rank.Wait(rank.Allreduce("sum" + std::to_string(count), values));
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_EQ(values, expected) << "step " << step;
  }
}

// Its members have to connect while strangers do.
void ExpectNewSetWorks(RankContext& rank) {
  const int ends = rank.AddSet({0, kRanks - 1});
  if (rank.rank() == 0 || rank.rank() == kRanks - 1) {
    RankContext in = rank.In(ends);
    std::vector<float> ones(9, 1.0f);
    ASSERT_TRUE(in.Wait(in.Allreduce("ends", ones)).ok());
    ASSERT_EQ(ones, std::vector<float>(9, 2.0f));
  }
  rank.RemoveSet(ends);
}

// Until all ranks have heard that it is enough; how many steps there were.
int Train(RankContext& rank, const std::atomic<bool>& enough) {
  for (int step = 0;; ++step) {
    ExpectExactSums(rank, step);
    if (step % 4 == 0 && !::testing::Test::HasFatalFailure()) ExpectNewSetWorks(rank);
    if (::testing::Test::HasFatalFailure()) return step;
    std::vector<float> stop(1, enough ? 1.0f : 0.0f);
    if (!rank.Wait(rank.Allreduce("stop", stop, ReduceOp::kMax)).ok() || stop[0] != 0) return step;
  }
}

void AttackEverything(Protection protection) {
  const std::vector<SocketAddress> targets = Listeners();
  EXPECT_EQ(targets.size(), 1u + kRanks);  // the store's, and each rank's
  std::vector<Bytes> recorded;
  for (const SocketAddress& target : targets) {
    recorded.push_back(RecordMember(target, {.job_id = "test"}, protection));
  }
  std::size_t conversations = 0;
  for (const SocketAddress& target : targets) {
    Stranger stranger(target, {recorded.front(), recorded.back()});
    stranger.AttackInEveryWay();
    stranger.AwaitTheEndOfTheSlow();
    conversations += stranger.conversations();
  }
  EXPECT_GT(conversations, 50u * targets.size());
}

TEST_P(Strangers, ChangeNothing) {
  std::atomic<bool> enough{false};
  std::jthread attack;
  RunRanks(Job(), [&](RankContext& rank) {
    // All ranks are connected once the first of them is here.
    if (rank.rank() == 0) {
      attack = std::jthread([&] {
        AttackEverything(GetParam().protection);
        enough = true;
      });
    }
    EXPECT_GT(Train(rank, enough), 0);
  });
  attack.join();
}

}  // namespace
}  // namespace hora::testing
