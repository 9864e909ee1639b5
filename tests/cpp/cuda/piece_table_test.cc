#include "hora/cuda/plugin/piece_table.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "hora/cuda/plugin/quantise_lane.h"

namespace hora {
namespace {

constexpr std::uintptr_t kBase = std::uintptr_t{1} << 40;

static_assert(SplitBytes(kBase, kBase, 100).width == 16);
static_assert(SplitBytes(kBase + 8, kBase, 100).width == 8);
static_assert(SplitBytes(kBase + 1, kBase, 100).width == 1);
static_assert(SplitBytes(kBase + 3, kBase + 3, 100).head == 13);
static_assert(SplitBytes(kBase + 3, kBase + 3, 5).head == 5);
static_assert(ElementsPerBlock(1, 1) == 16384);
static_assert(ElementsPerBlock(4, 2) == 4096 && ElementsPerBlock(2, 8) == 2048);
static_assert(VectorsInFlight(8, 8) == 4 && VectorsInFlight(4, 8) == 2 &&
              VectorsInFlight(8, 2) == 1);

// Whatever the addresses, the three parts make the piece, and vectors are aligned on both sides.
TEST(PieceSplit, CoversEveryElementOnceAndAligned) {
  for (const std::uint32_t from_bytes : {1u, 2u, 4u, 8u}) {
    for (const std::uint32_t to_bytes : {1u, 2u, 4u, 8u}) {
      for (unsigned shifts = 0; shifts < 256; ++shifts) {
        for (const std::uint64_t elements : {1u, 3u, 17u, 1000u}) {
          const std::uintptr_t from = kBase + shifts % 16, to = kBase + 4096 + shifts / 16;
          const PieceSplit split = SplitElements(from, from_bytes, to, to_bytes, elements);
          ASSERT_EQ(split.head + split.vectors * split.width + split.tail, elements);
          if (split.width == 1) continue;
          ASSERT_LT(split.head, 16u);
          ASSERT_LT(split.tail, split.width);
          if (split.vectors == 0) continue;
          ASSERT_EQ((from + split.head * from_bytes) % 16, 0u);
          ASSERT_EQ((to + split.head * to_bytes) % 16, 0u);
        }
      }
    }
  }
}

// A piece goes one by one only where no number of elements makes both addresses even.
TEST(PieceSplit, FindsTheVectorsThatThereAre) {
  for (const std::uint32_t from_bytes : {2u, 4u, 8u}) {
    for (const std::uint32_t to_bytes : {2u, 4u, 8u}) {
      for (unsigned shifts = 0; shifts < 256; ++shifts) {
        const std::uintptr_t from = kBase + shifts % 16, to = kBase + shifts / 16;
        bool possible = false;
        for (std::uint32_t head = 0; head < 16; ++head) {
          possible |= (from + head * from_bytes) % 16 == 0 && (to + head * to_bytes) % 16 == 0;
        }
        ASSERT_EQ(SplitElements(from, from_bytes, to, to_bytes, 1000).width > 1, possible);
      }
    }
  }
}

TEST(PieceSplit, BytesGoByTheWidestTypeOfBothAddresses) {
  for (std::uintptr_t from = kBase; from < kBase + 16; ++from) {
    for (std::uintptr_t to = kBase; to < kBase + 16; ++to) {
      const PieceSplit split = SplitBytes(from, to, 1000);
      std::uint32_t widest = 16;
      while (from % widest != to % widest) widest /= 2;
      ASSERT_EQ(split.width, widest);
      ASSERT_EQ((from + split.head) % widest, 0u);
      ASSERT_EQ((to + split.head) % widest, 0u);
      ASSERT_EQ(split.head + split.vectors * widest + split.tail, 1000u);
    }
  }
}

TEST(BlockRange, BlocksFollowEachOtherWithoutGaps) {
  for (const std::uint64_t elements :
       {std::uint64_t{1}, std::uint64_t{16383}, std::uint64_t{16384}, std::uint64_t{16385},
        std::uint64_t{50'000}, std::uint64_t{3} << 33}) {
    for (const std::uint32_t width : {1u, 4u, 16u}) {
      const PieceSplit split = SplitAt(width / 2, width, elements);
      const std::uint64_t blocks = BlocksOf(split, 16384);
      const std::uint64_t looked_at = std::min<std::uint64_t>(blocks, 5);
      for (std::uint64_t i = 0; i < 2 * looked_at; ++i) {  // the first ones and the last ones
        const auto block =
            static_cast<std::uint32_t>(i < looked_at ? i : blocks - (2 * looked_at - i));
        const BlockRange range = RangeOf(split, 16384, block);
        ASSERT_EQ(range.first, std::uint64_t{block} * (16384 / width));
        ASSERT_EQ(range.has_head, block == 0);
        ASSERT_EQ(range.has_tail, block == blocks - 1);
        ASSERT_EQ(range.last, range.has_tail ? split.vectors : range.first + 16384 / width);
        ASSERT_LE(range.first, range.last);
      }
    }
  }
}

TEST(PieceTable, FindsThePieceOfEachBlock) {
  std::mt19937 random{7};
  const auto table = std::make_unique<PieceTable<kManyPieces>>();
  std::vector<std::uint32_t> piece_of;
  std::uint32_t piece = 0;
  while (true) {
    const std::uint64_t blocks = 1 + (random() % 8 == 0 ? random() % 100 : 0);
    if (!table->Add(nullptr, nullptr, piece, blocks)) break;
    piece_of.insert(piece_of.end(), blocks, piece++);
  }
  EXPECT_EQ(piece, static_cast<std::uint32_t>(kManyPieces));
  ASSERT_EQ(table->blocks, piece_of.size());
  for (std::uint32_t block = 0; block < table->blocks; ++block) {
    ASSERT_EQ(table->PieceAt(block), piece_of[block]);
  }
}

TEST(PieceTable, TakesNoMoreBlocksThanAGridHas) {
  PieceTable<kFewPieces> table;
  EXPECT_TRUE(table.Add(nullptr, nullptr, 1, 0x7FFFFFFF));
  EXPECT_FALSE(table.Add(nullptr, nullptr, 1, 1));
  EXPECT_EQ(table.pieces, 1u);
}

template <class Lanes, int bits, std::uint32_t block>
void CheckLanes() {
  for (const std::uint64_t elements : {1u, 7u, 8u, 63u, 64u, 65u, 255u, 300u, 4096u, 5001u}) {
    std::uint64_t covered = 0;
    for (std::uint32_t b = 0; b < Lanes::Blocks(elements); ++b) {
      for (std::uint32_t t = 0; t < kThreadsPerBlock; ++t) {
        const QuantiseLane lane = Lanes::At(elements, b, t);
        if (lane.count == 0) {
          ASSERT_FALSE(lane.leads);
          continue;
        }
        ASSERT_EQ(lane.first, covered);
        const std::uint64_t of = lane.first / block, inside = lane.first % block;
        ASSERT_EQ(lane.scale, of * (2 + block * bits / 8));
        ASSERT_EQ(lane.payload, lane.scale + 2 + inside * bits / 8);
        ASSERT_EQ(lane.leads, inside == 0);
        covered += lane.count;
      }
    }
    ASSERT_EQ(covered, elements);
  }
}

TEST(QuantiseLanes, EveryElementIsSomeonesAndEachBlockHasOneLead) {
  CheckLanes<QuantiseLanes<8, 256>, 8, 256>();
  CheckLanes<QuantiseLanes<4, 64>, 4, 64>();
  const QuantiseLane far = QuantiseLanes<8, 256>::At(std::uint64_t{1} << 40, 0x7FFFFFFF, 255);
  EXPECT_EQ(far.first, (std::uint64_t{0x7FFFFFFF} * 256 + 255) * 8);
}

}  // namespace
}  // namespace hora
