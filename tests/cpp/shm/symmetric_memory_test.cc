#include "hora/shm/symmetric_memory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace hora {
namespace {

using Region = std::shared_ptr<SymmetricMemory>;

// The ranks of a set, each with its own view of the memory behind one descriptor.
class Ranks {
 public:
  explicit Ranks(int size, int set = 0) {
    for (int rank = 0; rank < size; ++rank) {
      heaps.push_back(SymmetricHeap::Create(segment_.fd(), set, rank, size).value());
    }
  }

  std::vector<Region> Allocate(std::size_t bytes) {
    std::vector<Region> regions;
    for (const auto& heap : heaps) regions.push_back(heap->Map(bytes).value());
    for (const Region& region : regions) EXPECT_TRUE(region->MakeSlice().ok());
    for (const Region& region : regions) region->MapOthers();
    return regions;
  }

  std::size_t UsedBytes() const {
    struct stat about {};
    EXPECT_EQ(fstat(segment_.fd(), &about), 0);
    return static_cast<std::size_t>(about.st_blocks) * 512;
  }

  std::vector<std::shared_ptr<SymmetricHeap>> heaps;

 private:
  Segment segment_ = Segment::Create(4096).value();
};

std::byte* SliceOf(const SymmetricMemory& region, int rank) {
  return region.first_slice() + static_cast<std::size_t>(rank) * region.stride();
}

TEST(SymmetricMemory, IsZeroAndSeenByEveryRank) {
  Ranks ranks(3);
  for (const std::size_t bytes : {1u, 4096u, 100'000u, (5u << 20) + 3}) {
    const std::vector<Region> regions = ranks.Allocate(bytes);
    for (int rank = 0; rank < 3; ++rank) {
      const std::span<std::byte> slice = regions[rank]->slice();
      ASSERT_EQ(slice.size(), bytes);
      EXPECT_EQ(slice.data(), SliceOf(*regions[rank], rank));
      EXPECT_TRUE(std::ranges::all_of(slice, [](std::byte b) { return b == std::byte{0}; }));
      std::ranges::fill(slice, std::byte(rank + 1));
    }
    for (const Region& seen_by : regions) {
      EXPECT_EQ(seen_by->number(), regions[0]->number());
      for (int rank = 0; rank < 3; ++rank) {
        const std::byte* const slice = SliceOf(*seen_by, rank);
        EXPECT_EQ(slice[0], std::byte(rank + 1));
        EXPECT_EQ(slice[bytes - 1], std::byte(rank + 1));
      }
    }
  }
}

TEST(SymmetricMemory, OffsetsAreAlignedAlikeInAllSlices) {
  Ranks ranks(2);
  for (const std::size_t bytes : {100u, 3u << 20}) {
    for (const Region& region : ranks.Allocate(bytes)) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(region->first_slice()) % 4096, 0u);
      EXPECT_EQ(region->stride() % 4096, 0u);
    }
  }
}

TEST(SymmetricMemory, IsFoundByAddressWhileItLives) {
  Ranks ranks(2);
  std::vector<std::vector<Region>> all;
  for (const std::size_t bytes : {8192u, 100u, 3u << 20}) all.push_back(ranks.Allocate(bytes));
  const SymmetricHeap& heap = *ranks.heaps[1];
  for (const auto& regions : all) {
    const std::span<std::byte> slice = regions[1]->slice();
    EXPECT_EQ(heap.Find(slice.data(), slice.size()), regions[1].get());
    EXPECT_EQ(heap.Find(slice.data() + 7, 1), regions[1].get());
    EXPECT_EQ(heap.Find(slice.data() + slice.size() - 1, 1), regions[1].get());
    EXPECT_EQ(heap.Find(slice.data() + 1, slice.size()), nullptr);
    EXPECT_EQ(heap.Find(slice.data() + slice.size(), 0), nullptr);
    EXPECT_EQ(heap.Find(SliceOf(*regions[1], 0), 1), nullptr) << "another rank's slice";
  }
  const std::byte elsewhere{};
  EXPECT_EQ(heap.Find(&elsewhere, 1), nullptr);
  EXPECT_EQ(heap.Find(nullptr, 0), nullptr);

  const std::byte* const gone = all[0][1]->slice().data();
  all[0].clear();
  EXPECT_EQ(heap.Find(gone, 1), nullptr);
  EXPECT_EQ(heap.Find(all[1][1]->slice().data(), 1), all[1][1].get());
}

TEST(SymmetricMemory, GoesBackToTheSystemWithTheLastRank) {
  Ranks ranks(2);
  const std::size_t before = ranks.UsedBytes();
  for (int round = 0; round < 3; ++round) {
    std::vector<Region> regions = ranks.Allocate(1u << 20);
    EXPECT_GE(ranks.UsedBytes(), before + (2u << 20));
    regions[round % 2]->slice()[5] = std::byte{5};
    regions[1 - round % 2].reset();
    EXPECT_GE(ranks.UsedBytes(), before + (2u << 20));
    EXPECT_EQ(regions[round % 2]->slice()[5], std::byte{5});
    regions.clear();
    EXPECT_EQ(ranks.UsedBytes(), before);
  }
}

TEST(SymmetricMemory, OutlivesItsHeapAndDescriptor) {
  std::vector<Region> regions;
  {
    Ranks ranks(2);
    regions = ranks.Allocate(10'000);
  }
  regions[0]->slice()[9'999] = std::byte{7};
  EXPECT_EQ(SliceOf(*regions[1], 0)[9'999], std::byte{7});
}

TEST(SymmetricMemory, TheEndOfAForkedChildFreesNothing) {
  Ranks ranks(2);
  std::vector<Region> regions = ranks.Allocate(1u << 20);
  const pid_t child = fork();
  if (child == 0) {
    regions[0]->slice()[1] = std::byte{9};
    regions.clear();
    _exit(0);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(SliceOf(*regions[1], 0)[1], std::byte{9});
  EXPECT_GE(ranks.UsedBytes(), 2u << 20);
}

TEST(SymmetricMemory, SetsHaveMemoryOfTheirOwn) {
  const Segment segment = Segment::Create(4096).value();
  const auto one = SymmetricHeap::Create(segment.fd(), 0, 0, 2).value();
  const auto other = SymmetricHeap::Create(segment.fd(), 7, 1, 2).value();
  const Region first = one->Map(100).value();
  const Region second = other->Map(100).value();
  ASSERT_TRUE(first->MakeSlice().ok());
  ASSERT_TRUE(second->MakeSlice().ok());
  first->slice()[0] = std::byte{1};
  EXPECT_EQ(second->slice()[0], std::byte{0});
  EXPECT_EQ(other->Find(first->slice().data(), 1), nullptr);
}

TEST(SymmetricMemory, TooMuchIsAnErrorBeforeAnythingIsTouched) {
  Ranks ranks(2);
  const std::size_t before = ranks.UsedBytes();
  for (const std::size_t bytes : {std::size_t{1} << 40, std::size_t{1} << 50, ~std::size_t{0}}) {
    const Status status = ranks.heaps[0]->CheckRoom(bytes);
    EXPECT_EQ(status.code(), StatusCode::kResource) << status.ToString();
  }
  EXPECT_TRUE(ranks.heaps[0]->CheckRoom(1u << 20).ok());
  EXPECT_EQ(ranks.UsedBytes(), before);
}

}  // namespace
}  // namespace hora
