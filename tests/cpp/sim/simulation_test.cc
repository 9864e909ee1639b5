// Many random worlds. A failing one prints its seed; HORA_SIM_SEED=<seed> runs that one alone.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "sim/world.h"

namespace hora::sim {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kWorlds = 50;
#else
constexpr int kWorlds = 500;
#endif

constexpr int kMaxSize = 1024;

// 0: not set.
std::uint64_t ChosenSeed() {
  const char* text = std::getenv("HORA_SIM_SEED");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

void RunWorlds(int count, WorldOptions (*from_seed)(std::uint64_t seed, int max_size)) {
  const std::uint64_t chosen = ChosenSeed();
  const std::uint64_t first = chosen != 0 ? chosen : 1;
  const std::uint64_t last = chosen != 0 ? chosen : static_cast<std::uint64_t>(count);
  for (std::uint64_t seed = first; seed <= last; ++seed) {
    const WorldOptions options = from_seed(seed, kMaxSize);
    ASSERT_EQ(World(options).Run(), "") << "HORA_SIM_SEED=" << seed << " " << options.ToString();
  }
}

TEST(Simulation, RandomWorldsHoldTheInvariants) { RunWorlds(kWorlds, WorldOptions::FromSeed); }

TEST(Simulation, EveryRankLearnsWhoIsMissingAndFailsForIt) {
  RunWorlds(kWorlds / 4, WorldOptions::StallFromSeed);
}

TEST(Simulation, JoinsLeaveOutWhoHasNothingMoreAndNobodyElse) {
  RunWorlds(kWorlds, WorldOptions::JoinFromSeed);
}

TEST(Simulation, TheSameSeedGivesTheSameWorld) {
  const WorldOptions options = WorldOptions::FromSeed(7, 64);
  World first(options);
  World second(options);
  EXPECT_EQ(first.Run(), "");
  EXPECT_EQ(second.Run(), "");
  EXPECT_EQ(first.events(), second.events());
  EXPECT_EQ(first.messages(), second.messages());
}

}  // namespace
}  // namespace hora::sim
