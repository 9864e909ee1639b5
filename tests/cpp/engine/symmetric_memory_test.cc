// Symmetric memory from the allocation to the allreduce, with ranks as threads.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "hora/base/format.h"
#include "support/rank_group.h"

namespace hora {
namespace {

using testing::RankContext;
using testing::RankGroupOptions;
using testing::RunRanks;

using Region = std::shared_ptr<SymmetricMemory>;

Region Allocate(RankContext& self, std::size_t floats) {
  const std::string what = fmt::format("float32 [{}]", floats);
  auto region = self.engine().AllocateSymmetric(self.set().id(), floats * sizeof(float), what);
  if (!region) throw std::runtime_error(region.error().ToString());
  return *region;
}

std::span<float> FloatsIn(const Region& region) {
  const std::span<std::byte> slice = region->slice();
  return {reinterpret_cast<float*>(slice.data()), slice.size() / sizeof(float)};
}

Request AllreduceOf(const std::string& name, std::size_t count) {
  return {.name = name,
          .params = {.dtype = DType::kFloat32, .shape = Shape{static_cast<std::int64_t>(count)}},
          .first_dims = {}};
}

std::shared_ptr<Handle> Start(RankContext& self, const std::string& name, std::span<float> values) {
  const auto bytes = std::as_writable_bytes(values);
  return self.Submit(AllreduceOf(name, values.size()), bytes, bytes);
}

Status Reduce(RankContext& self, const std::string& name, std::span<float> values) {
  return self.Wait(Start(self, name, values));
}

std::uint64_t InPlaceBytes(RankContext& self) {
  for (const auto& [name, value] : self.engine().metrics().Values()) {
    if (name == "in_place_bytes") return value;
  }
  ADD_FAILURE() << "there is no such metric";
  return 0;
}

float RandomValue(int rank, std::size_t i, std::size_t round) {
  std::minstd_rand random(static_cast<unsigned>(1 + rank * 7919 + i * 31 + round * 104'729));
  return static_cast<float>(random() % 20'011) / 271.0f - 33.0f;
}

class SymmetricOnRanks : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Sizes, SymmetricOnRanks, ::testing::Values(2, 3, 4, 5),
                         [](const auto& test) { return std::to_string(test.param) + "ranks"; });

TEST_P(SymmetricOnRanks, ReducesWithoutACopyToTheSameBits) {
  RunRanks(GetParam(), [](RankContext& self) {
    for (const std::size_t count : {2'000u, 70'000u, 1'000'000u}) {
      const Region region = Allocate(self, count);
      const std::span<float> shared = FloatsIn(region);
      std::vector<float> ordinary(count);
      for (std::size_t i = 0; i < count; ++i)
        shared[i] = ordinary[i] = RandomValue(self.rank(), i, 0);
      const std::uint64_t before = InPlaceBytes(self);
      ASSERT_TRUE(Reduce(self, "ordinary", ordinary).ok());
      EXPECT_EQ(InPlaceBytes(self), before);
      ASSERT_TRUE(Reduce(self, "shared", shared).ok());
      EXPECT_EQ(InPlaceBytes(self), before + count * sizeof(float));
      ASSERT_TRUE(std::ranges::equal(shared, ordinary));
    }
  });
}

TEST_P(SymmetricOnRanks, RanksMayDifferInWhatTheyPlace) {
  RunRanks(GetParam(), [](RankContext& self) {
    constexpr std::size_t kCount = 50'000;
    const Region region = Allocate(self, 2 * kCount);
    const Region other = Allocate(self, 2 * kCount);
    std::vector<float> ordinary(kCount);
    const std::vector<std::span<float>> choices = {
        std::span(ordinary), FloatsIn(region).first(kCount), FloatsIn(region).last(kCount),
        FloatsIn(region).subspan(3, kCount), FloatsIn(other).first(kCount)};
    for (std::size_t round = 0; round < 25; ++round) {
      std::mt19937 random(static_cast<unsigned>(round));  // the same on all ranks
      std::vector<std::size_t> chosen;
      for (int rank = 0; rank < self.size(); ++rank) chosen.push_back(random() % choices.size());
      const std::span<float> mine = choices[chosen[static_cast<std::size_t>(self.rank())]];
      for (std::size_t i = 0; i < kCount; ++i) mine[i] = static_cast<float>(self.rank() + 1);
      const bool same = std::ranges::adjacent_find(chosen, std::not_equal_to<>()) == chosen.end();
      const std::uint64_t before = InPlaceBytes(self);
      ASSERT_TRUE(Reduce(self, "x", mine).ok());
      const auto sum = static_cast<float>(self.size() * (self.size() + 1) / 2);
      ASSERT_TRUE(std::ranges::all_of(mine, [&](float v) { return v == sum; })) << round;
      const bool in_place = same && chosen[0] != 0;
      EXPECT_EQ(InPlaceBytes(self) - before, in_place ? kCount * sizeof(float) : 0u);
    }
  });
}

// Bursts of named tensors, some of them in the region, in an order of its own on each rank; what is
// fused with what is up to the agreement.
TEST_P(SymmetricOnRanks, BurstsMixMembersInAndOutOfTheRegion) {
  RunRanks(GetParam(), [](RankContext& self) {
    constexpr std::size_t kTensors = 40;
    constexpr std::size_t kEach = 3'001;
    const Region region = Allocate(self, kTensors * kEach);
    std::mt19937 random(static_cast<unsigned>(self.rank()));
    for (std::size_t round = 0; round < 6; ++round) {
      std::vector<std::vector<float>> outside(kTensors, std::vector<float>(kEach));
      std::vector<std::size_t> order(kTensors);
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::ranges::shuffle(order, random);
      const auto memory_of = [&](std::size_t t) {
        return t % (round + 2) == 0 ? std::span(outside[t])
                                    : FloatsIn(region).subspan(t * kEach, kEach);
      };
      std::vector<std::shared_ptr<Handle>> handles;
      for (const std::size_t t : order) {
        const std::span<float> memory = memory_of(t);
        for (std::size_t i = 0; i < kEach; ++i) memory[i] = static_cast<float>(t + i % 7 + round);
        handles.push_back(Start(self, "t" + std::to_string(t), memory));
      }
      for (const auto& handle : handles) ASSERT_TRUE(self.Wait(handle).ok());
      for (std::size_t t = 0; t < kTensors; ++t) {
        for (std::size_t i = 0; i < kEach; ++i) {
          ASSERT_EQ(memory_of(t)[i],
                    static_cast<float>(self.size()) * static_cast<float>(t + i % 7 + round));
        }
      }
    }
    EXPECT_GT(InPlaceBytes(self), 0u);
  });
}

TEST_P(SymmetricOnRanks, AGroupIsReducedInPlaceAsAWhole) {
  RunRanks(GetParam(), [](RankContext& self) {
    const Region region = Allocate(self, 30'000);
    std::vector<float> outside(5'000, 1.0f);
    const auto part = [&](std::size_t begin, std::size_t count) {
      return std::as_writable_bytes(FloatsIn(region).subspan(begin, count));
    };
    std::ranges::fill(FloatsIn(region), static_cast<float>(self.rank()));
    Request request = AllreduceOf("group", 10'000);
    request.params.rest = {{DType::kFloat32, Shape{5'000}}, {DType::kFloat32, Shape{12'000}}};
    const auto own = std::as_writable_bytes(std::span(outside));
    const auto handle = self.SubmitGroup(request, {{part(100, 10'000), part(100, 10'000)},
                                                   {own, own},
                                                   {part(15'000, 12'000), part(15'000, 12'000)}});
    ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
    const auto sum = static_cast<float>(self.size() * (self.size() - 1) / 2);
    const std::span<float> all = FloatsIn(region);
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool reduced = (i >= 100 && i < 10'100) || (i >= 15'000 && i < 27'000);
      ASSERT_EQ(all[i], reduced ? sum : static_cast<float>(self.rank())) << i;
    }
    EXPECT_EQ(outside[4'999], static_cast<float>(self.size()));
    EXPECT_EQ(InPlaceBytes(self), 22'000 * sizeof(float));
  });
}

TEST_P(SymmetricOnRanks, WhoHasJoinedSpoilsNothing) {
  RunRanks(GetParam(), [](RankContext& self) {
    const Region region = Allocate(self, 20'000);
    std::ranges::fill(FloatsIn(region), 1.0f);
    if (self.rank() != 0) {
      ASSERT_TRUE(Reduce(self, "x", FloatsIn(region)).ok());
      EXPECT_EQ(FloatsIn(region)[0], static_cast<float>(self.size() - 1));
    }
    ASSERT_TRUE(self.Wait(self.Join()).ok());
    EXPECT_EQ(InPlaceBytes(self), 0u);
  });
}

TEST(SymmetricAllocation, SetsHaveTheirOwn) {
  RunRanks(3, [](RankContext& self) {
    const int id = self.AddSet({0, 2});
    std::vector<float> everybody(10'000, 1.0f);
    if (self.rank() != 1) {
      RankContext pair = self.In(id);
      const Region region = Allocate(pair, 10'000);
      std::ranges::fill(FloatsIn(region), 1.0f);
      ASSERT_TRUE(Reduce(pair, "x", FloatsIn(region)).ok());
      EXPECT_EQ(FloatsIn(region)[9'999], 2.0f);
      EXPECT_EQ(InPlaceBytes(self), 40'000u);
    } else {
      const auto refused = self.engine().AllocateSymmetric(id, 4, "float32 [1]");
      EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
    }
    ASSERT_TRUE(Reduce(self, "all", everybody).ok());
    EXPECT_EQ(everybody[0], 3.0f);
    self.RemoveSet(id);
  });
}

TEST(SymmetricAllocation, DifferentWishesAreAMismatchEverywhere) {
  RunRanks(3, [](RankContext& self) {
    const std::size_t bytes = self.rank() == 1 ? 8 : 4;
    const auto region = self.engine().AllocateSymmetric(0, bytes, "memory");
    ASSERT_FALSE(region);
    EXPECT_EQ(region.error().code(), StatusCode::kMismatch);
    for (const char* part : {"rank 0: memory (4 bytes)", "rank 1: memory (8 bytes)"}) {
      EXPECT_NE(region.error().message().find(part), std::string::npos) << region.error().message();
    }
    EXPECT_EQ(FloatsIn(Allocate(self, 5)).size(), 5u) << "the set goes on";
  });
}

TEST(SymmetricAllocation, TooMuchIsAnErrorEverywhereAndLeavesTheSetUsable) {
  RunRanks(2, [](RankContext& self) {
    const auto region = self.engine().AllocateSymmetric(0, std::size_t{1} << 40, "uint8 [2^40]");
    ASSERT_FALSE(region);
    EXPECT_EQ(region.error().code(), StatusCode::kResource) << region.error().ToString();
    const Region small = Allocate(self, 20'000);
    std::ranges::fill(FloatsIn(small), 1.0f);
    ASSERT_TRUE(Reduce(self, "x", FloatsIn(small)).ok());
    EXPECT_EQ(FloatsIn(small)[0], 2.0f);
  });
}

TEST(SymmetricAllocation, NothingToShareIsNoMemory) {
  RunRanks(2, [](RankContext& self) { EXPECT_EQ(Allocate(self, 0), nullptr); });
  RunRanks(1, [](RankContext& self) { EXPECT_EQ(Allocate(self, 100), nullptr); });
}

TEST(SymmetricAllocation, MemoryComesAndGoesWhileTheJobGoesOn) {
  RunRanks(3, [](RankContext& self) {
    std::vector<Region> kept;
    for (int round = 0; round < 30; ++round) {
      kept.push_back(Allocate(self, 5'000 + static_cast<std::size_t>(round)));
      std::ranges::fill(FloatsIn(kept.back()), 1.0f);
      ASSERT_TRUE(Reduce(self, "x", FloatsIn(kept.back())).ok());
      ASSERT_EQ(FloatsIn(kept.back()).back(), 3.0f);
      // Each rank drops its own at a time of its own.
      if (round % (self.rank() + 2) == 0) kept.erase(kept.begin());
    }
    EXPECT_GT(InPlaceBytes(self), 30u * 5'000u * sizeof(float) - 1);
  });
}

TEST(SymmetricAllocation, OutlivesItsJob) {
  std::vector<Region> regions(2);
  RunRanks(2, [&](RankContext& self) {
    Region region = Allocate(self, 10'000);
    std::ranges::fill(FloatsIn(region), 1.0f);
    ASSERT_TRUE(Reduce(self, "x", FloatsIn(region)).ok());
    regions[static_cast<std::size_t>(self.rank())] = std::move(region);
  });
  // In the next job it is memory like any other.
  RunRanks(2, [&](RankContext& self) {
    const std::span<float> old = FloatsIn(regions[static_cast<std::size_t>(self.rank())]);
    const Region fresh = Allocate(self, 10'000);
    ASSERT_TRUE(Reduce(self, "old", old).ok());
    EXPECT_EQ(old[9'999], 4.0f);
    EXPECT_EQ(InPlaceBytes(self), 0u);
  });
}

TEST(SymmetricAllocation, ALostRankEndsAnAllocationForAll) {
  RankGroupOptions options{.size = 3, .config = {}};
  options.config.stall_abort = std::chrono::milliseconds(1500);
  options.config.stall_warning = std::chrono::milliseconds(400);
  std::atomic<int> told{0};
  RunRanks(options, [&](RankContext& self) {
    if (self.rank() == 2) {
      while (told.load() < 2) YieldCore();
      return;
    }
    const auto region = self.engine().AllocateSymmetric(0, 4'000, "float32 [1000]");
    EXPECT_FALSE(region);
    EXPECT_EQ(region.error().code(), StatusCode::kStalled) << region.error().ToString();
    told.fetch_add(1);
  });
}

}  // namespace
}  // namespace hora
