// What a round costs does not grow with the number of ranks, but at the rate of the tree's depth.
#include "sim/lockstep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "hora/base/format.h"

namespace hora::sim {
namespace {

void ExpectBounded(const Lockstep& world, int fan_out, const std::string& what) {
  const auto most = static_cast<std::uint32_t>(fan_out);
  for (int rank = 0; rank < world.size(); ++rank) {
    const Lockstep::Node& node = world.node(rank);
    EXPECT_LE(node.received, most + (rank == 0 ? 0 : 1)) << what << ", rank " << rank;
    EXPECT_LE(node.sent, most + (rank == 0 ? 0 : 1)) << what << ", rank " << rank;
  }
  EXPECT_LE(world.decision_us(), world.LimitUs(2 * world.depth())) << what;
}

TEST(Lockstep, ANodeHandlesAMessageUpAndOneDownPerEdgeWhateverTheNumberOfRanks) {
  for (const int size : {1, 2, 9, 64, 4096}) {
    for (const int fan_out : {2, 8, 64}) {
      Lockstep world(size, fan_out, 40);
      for (const char* round : {"first", "cached", "cached again"}) {
        world.Round();
        ExpectBounded(world, fan_out, fmt::format("{} of {}, {} round", fan_out, size, round));
      }
      const Lockstep::Node& root = world.node(0);
      const int children = std::min(fan_out, size - 1);
      EXPECT_EQ(root.received + root.sent, 2u * static_cast<std::uint32_t>(children));
    }
  }
}

TEST(Lockstep, ACachedTensorIsOneBit) {
  const auto bytes_per_message = [](int tensors) {
    Lockstep world(2, 2, tensors);
    world.Round();
    world.Round();
    EXPECT_EQ(world.node(0).received + world.node(0).sent, 2u);
    return static_cast<double>(world.node(0).bytes) / 2;
  };
  const double few = bytes_per_message(64);
  EXPECT_NEAR(bytes_per_message(64 + 3200) - few, 3200 / 8, 8);
}

TEST(Lockstep, TheTreeIsAsDeepAsItMustBe) {
  for (const int fan_out : {2, 8, 64}) {
    const Lockstep world(4096, fan_out, 1);
    EXPECT_LE(world.depth(), std::ceil(std::log(4096) / std::log(fan_out))) << fan_out;
  }
}

}  // namespace
}  // namespace hora::sim
