// Where the lanes of a warp find what they quantise: eight elements each, side by side, so that a
// block of 256 is a warp's and one of 64 a quarter's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hora/cuda/plugin/piece_table.h"

namespace hora {

inline constexpr std::uint32_t kElementsPerLane = 8;

// One lane's elements and where its block is stored, see kernels/quantise.h.
struct QuantiseLane {
  std::uint64_t first;    // element
  std::uint32_t count;    // of them, 0 to 8: fewer at the end
  std::uint64_t scale;    // byte of the block's scale
  std::uint64_t payload;  // byte of this lane's integers
  bool leads;             // writes the scale
};

template <int bits, std::uint32_t block>
struct QuantiseLanes {
  static constexpr std::uint32_t kLanes = block / kElementsPerLane;  // of one block
  static constexpr std::uint32_t kStoredBytes = 2 + block * bits / 8;
  static_assert(kLanes <= 32 && 32 % kLanes == 0, "a block does not cross warps");

  // Thread blocks for so many elements.
  static constexpr std::uint64_t Blocks(std::uint64_t elements) {
    constexpr std::uint64_t kPerBlock = kThreadsPerBlock * kElementsPerLane;
    return (elements + kPerBlock - 1) / kPerBlock;
  }

  static constexpr QuantiseLane At(std::uint64_t elements, std::uint32_t thread_block,
                                   std::uint32_t thread) {
    const std::uint64_t lane = std::uint64_t{thread_block} * kThreadsPerBlock + thread;
    const std::uint64_t first = lane * kElementsPerLane;
    const std::uint64_t left = first < elements ? elements - first : 0;
    const std::uint64_t scale = lane / kLanes * kStoredBytes;
    const std::uint64_t inside = lane % kLanes;
    return {first, static_cast<std::uint32_t>(left < kElementsPerLane ? left : kElementsPerLane),
            scale, scale + 2 + inside * (kElementsPerLane * bits / 8), inside == 0 && left > 0};
  }
};

}  // namespace hora
