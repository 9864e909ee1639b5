// Many random worlds. A failing one prints its seed; HORA_SIM_SEED=<seed> runs that one alone.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "sim/world.h"

namespace hora::sim {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int kWorlds = 150;
#else
constexpr int kWorlds = 1500;
#endif

// 0: not set.
std::uint64_t ChosenSeed() {
  const char* text = std::getenv("HORA_SIM_SEED");
  return text == nullptr ? 0 : std::strtoull(text, nullptr, 10);
}

void RunWorld(std::uint64_t seed, int max_size) {
  const WorldOptions options = WorldOptions::FromSeed(seed, max_size);
  const std::string violation = World(options).Run();
  ASSERT_EQ(violation, "") << "HORA_SIM_SEED=" << seed << " (" << options.ToString() << ")";
}

TEST(Simulation, RandomWorldsHoldTheInvariants) {
  if (const std::uint64_t seed = ChosenSeed(); seed != 0) return RunWorld(seed, 1024);
  for (int i = 1; i <= kWorlds; ++i) {
    RunWorld(static_cast<std::uint64_t>(i), 1024);
    if (HasFatalFailure()) return;
  }
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
