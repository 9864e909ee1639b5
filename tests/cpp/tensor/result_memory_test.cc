#include "hora/tensor/result_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace hora {
namespace {

constexpr std::size_t kMiB = 1u << 20;

std::shared_ptr<ResultMemory> MemoryOf(std::size_t limit) {
  return std::make_shared<ResultMemory>(limit);
}

bool IsMapped(const std::byte* page) {
  unsigned char resident = 0;
  return mincore(const_cast<std::byte*>(page), 1, &resident) == 0;
}

TEST(ResultMemory, GivesTheSamePieceAgain) {
  const auto memory = MemoryOf(64 * kMiB);
  ResultMemory::Piece piece = ResultMemory::Allocate(memory, 8 * kMiB);
  const std::byte* const first = piece.get();
  std::memset(piece.get(), 1, 8 * kMiB);
  piece.reset();
  EXPECT_EQ(memory->kept_bytes(), 8 * kMiB);
  piece = ResultMemory::Allocate(memory, 8 * kMiB);
  EXPECT_EQ(piece.get(), first);
  EXPECT_EQ(memory->kept_bytes(), 0u);
}

TEST(ResultMemory, ChoosesThePieceThatFitsBest) {
  const auto memory = MemoryOf(64 * kMiB);
  auto small = ResultMemory::Allocate(memory, 4 * kMiB);
  auto fitting = ResultMemory::Allocate(memory, 5 * kMiB);
  auto large = ResultMemory::Allocate(memory, 16 * kMiB);
  const std::byte* const expected = fitting.get();
  const std::byte* const huge = large.get();
  small.reset();
  large.reset();
  fitting.reset();
  EXPECT_EQ(ResultMemory::Allocate(memory, 4 * kMiB + 1).get(), expected);
  // Neither wastes more than a quarter, nor is too small.
  EXPECT_NE(ResultMemory::Allocate(memory, 10 * kMiB).get(), huge);
}

TEST(ResultMemory, KeepsNoMoreThanTheLimit) {
  const auto memory = MemoryOf(8 * kMiB);
  auto oldest = ResultMemory::Allocate(memory, 4 * kMiB);
  auto older = ResultMemory::Allocate(memory, 3 * kMiB);
  auto newest = ResultMemory::Allocate(memory, 2 * kMiB);
  auto too_large = ResultMemory::Allocate(memory, 9 * kMiB);
  const std::byte* const first = oldest.get();
  const std::byte* const second = older.get();
  const std::byte* const huge = too_large.get();
  oldest.reset();
  older.reset();
  newest.reset();
  EXPECT_EQ(memory->kept_bytes(), 5 * kMiB);
  EXPECT_FALSE(IsMapped(first));  // the operating system has it again
  EXPECT_TRUE(IsMapped(second));
  too_large.reset();
  EXPECT_EQ(memory->kept_bytes(), 5 * kMiB);
  EXPECT_FALSE(IsMapped(huge));
}

TEST(ResultMemory, KeepsNothingAtLimitZeroAndNothingSmall) {
  const auto none = MemoryOf(0);
  ResultMemory::Allocate(none, 2 * kMiB).reset();
  EXPECT_EQ(none->kept_bytes(), 0u);
  EXPECT_EQ(ResultMemory::Allocate(none, 2 * kMiB).get_deleter().mapped_bytes, 0u);
  const auto some = MemoryOf(64 * kMiB);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, kMiB - 1}) {
    const auto piece = ResultMemory::Allocate(some, bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(piece.get()) % ResultMemory::kAlignment, 0u);
  }
  EXPECT_EQ(some->kept_bytes(), 0u);
}

TEST(ResultMemory, GivesEverythingBackWhenItEnds) {
  auto memory = MemoryOf(64 * kMiB);
  auto outlives = ResultMemory::Allocate(memory, 4 * kMiB);
  auto kept = ResultMemory::Allocate(memory, 4 * kMiB);
  std::byte* const outliving = outlives.get();
  const std::byte* const gone = kept.get();
  kept.reset();
  memory.reset();
  EXPECT_FALSE(IsMapped(gone));
  std::memset(outliving, 7, 4 * kMiB);
  EXPECT_EQ(outliving[4 * kMiB - 1], std::byte{7});
  outlives.reset();
  EXPECT_FALSE(IsMapped(outliving));
}

TEST(ResultMemory, ServesManyThreads) {
  const auto memory = MemoryOf(6 * kMiB);
  std::vector<std::jthread> threads;
  for (int id = 1; id <= 4; ++id) {
    threads.emplace_back([&memory, id] {
      for (int i = 0; i < 200; ++i) {
        const auto piece = ResultMemory::Allocate(memory, static_cast<std::size_t>(id) * kMiB);
        piece[0] = std::byte(id);
        piece[kMiB - 1] = std::byte(id);
        ASSERT_EQ(piece[0], piece[kMiB - 1]);
      }
    });
  }
  threads.clear();
  EXPECT_LE(memory->kept_bytes(), 6 * kMiB);
}

TEST(ResultMemory, WorksInAForkedProcess) {
  const auto memory = MemoryOf(64 * kMiB);
  auto before = ResultMemory::Allocate(memory, 4 * kMiB);
  std::memset(before.get(), 3, 4 * kMiB);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const bool intact = before[4 * kMiB - 1] == std::byte{3};
    before.reset();
    const auto again = ResultMemory::Allocate(memory, 4 * kMiB);
    std::memset(again.get(), 4, 4 * kMiB);
    _exit(intact ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(before[0], std::byte{3});
}

}  // namespace
}  // namespace hora
