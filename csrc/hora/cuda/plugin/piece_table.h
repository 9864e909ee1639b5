// How a batch of copies is cut into thread blocks: constant expressions, so that a GPU and tests on
// a CPU run the same lines.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hora {

inline constexpr int kThreadsPerBlock = 256;
inline constexpr std::uint32_t kVectorBytes =
    16;  // what a thread loads and stores at once, at most
inline constexpr std::uint32_t kVectorsInFlight = 4;

// The elements of a piece in order: `head` one by one, then vectors of `width` elements at
// addresses that are multiples of a vector's bytes on both sides, then `tail` one by one.
struct PieceSplit {
  std::uint64_t vectors = 0;
  std::uint32_t head = 0;
  std::uint32_t width = 1;
  std::uint32_t tail = 0;
};

constexpr PieceSplit SplitAt(std::uint32_t head, std::uint32_t width, std::uint64_t elements) {
  if (head > elements) head = static_cast<std::uint32_t>(elements);
  const std::uint64_t rest = elements - head;
  return {rest / width, head, width, static_cast<std::uint32_t>(rest % width)};
}

// Bytes that are copied as they are: by the widest type that both addresses can have at once.
constexpr PieceSplit SplitBytes(std::uintptr_t from, std::uintptr_t to, std::uint64_t bytes) {
  const std::uintptr_t differ = (from ^ to) | kVectorBytes;
  const auto width = static_cast<std::uint32_t>(differ & (~differ + 1));
  return SplitAt(static_cast<std::uint32_t>((~to + 1) & (width - 1)), width, bytes);
}

// Elements of two sizes: a vector is 16 bytes of the smaller ones, and several times that of the
// others. Where the addresses do not allow it, everything goes one by one.
constexpr PieceSplit SplitElements(std::uintptr_t from, std::uint32_t from_bytes, std::uintptr_t to,
                                   std::uint32_t to_bytes, std::uint64_t elements) {
  const bool narrows = to_bytes < from_bytes;
  const std::uint32_t small = narrows ? to_bytes : from_bytes;
  const std::uint32_t large = narrows ? from_bytes : to_bytes;
  const auto missing =
      static_cast<std::uint32_t>((~(narrows ? to : from) + 1) & (kVectorBytes - 1));
  const std::uint32_t head = missing / small;
  const std::uintptr_t other = (narrows ? from : to) + std::uintptr_t{head} * large;
  if (missing % small != 0 || other % kVectorBytes != 0) return SplitAt(0, 1, elements);
  return SplitAt(head, kVectorBytes / small, elements);
}

// Vectors that a thread has in flight: together 64 bytes of the larger elements, where they are not
// larger than that already.
constexpr std::uint32_t VectorsInFlight(std::uint32_t from_bytes, std::uint32_t to_bytes) {
  const std::uint32_t small = from_bytes < to_bytes ? from_bytes : to_bytes;
  const std::uint32_t large = from_bytes < to_bytes ? to_bytes : from_bytes;
  const std::uint32_t vectors = kVectorsInFlight * small / large;
  return vectors == 0 ? 1 : vectors;
}

// What one thread block does: large enough that finding its piece costs little, small enough that
// the last blocks do not keep a device waiting.
constexpr std::uint32_t ElementsPerBlock(std::uint32_t from_bytes, std::uint32_t to_bytes) {
  const std::uint32_t small = from_bytes < to_bytes ? from_bytes : to_bytes;
  return kThreadsPerBlock * VectorsInFlight(from_bytes, to_bytes) * (kVectorBytes / small);
}

// A piece has at least one block: the first one does the head, the last one the tail.
constexpr std::uint64_t BlocksOf(const PieceSplit& split, std::uint32_t elements_per_block) {
  const std::uint64_t vectors_per_block = elements_per_block / split.width;
  const std::uint64_t blocks = (split.vectors + vectors_per_block - 1) / vectors_per_block;
  return blocks == 0 ? 1 : blocks;
}

// The vectors of a piece that its `block`-th block moves, and whether it has the ends.
struct BlockRange {
  std::uint64_t first = 0, last = 0;
  bool has_head = false, has_tail = false;
};

constexpr BlockRange RangeOf(const PieceSplit& split, std::uint32_t elements_per_block,
                             std::uint32_t block) {
  const std::uint64_t vectors_per_block = elements_per_block / split.width;
  const std::uint64_t first = block * vectors_per_block;
  const bool ends = split.vectors - first <= vectors_per_block;
  return {first, ends ? split.vectors : first + vectors_per_block, block == 0, ends};
}

// What a launch is told, as the kernel's argument: no memory to manage, nothing to wait for. Fields
// side by side, so that a search reads only what it compares.
template <int capacity>
struct PieceTable {
  const std::byte* from[capacity];
  std::byte* to[capacity];
  std::uint64_t elements[capacity];
  std::uint32_t first_block[capacity];
  std::uint32_t pieces = 0;
  std::uint32_t blocks = 0;

  // False where it has no room left.
  constexpr bool Add(const std::byte* source, std::byte* destination, std::uint64_t count,
                     std::uint64_t piece_blocks) {
    constexpr std::uint64_t kMostBlocks = 0x7FFFFFFF;  // a grid's first dimension
    if (pieces == capacity || piece_blocks > kMostBlocks - blocks) return false;
    from[pieces] = source;
    to[pieces] = destination;
    elements[pieces] = count;
    first_block[pieces] = blocks;
    ++pieces;
    blocks += static_cast<std::uint32_t>(piece_blocks);
    return true;
  }

  // The piece that block number `block` < blocks works at.
  constexpr std::uint32_t PieceAt(std::uint32_t block) const {
    std::uint32_t low = 0, high = pieces;
    while (high - low > 1) {
      const std::uint32_t middle = (low + high) / 2;
      if (first_block[middle] <= block) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// 32,764 bytes are what a launch takes. The small one is for the few pieces that most launches
// have: arguments are copied whole.
inline constexpr int kManyPieces = 1024;
inline constexpr int kFewPieces = 64;
static_assert(sizeof(PieceTable<kManyPieces>) + 64 <= 32764);

}  // namespace hora
