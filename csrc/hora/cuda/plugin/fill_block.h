// What each thread does where memory is filled with one element. Runs on a GPU, and thread by
// thread in tests on a CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hora/cuda/plugin/copy_block.h"

namespace hora {

// The element again and again: as it begins at the memory's address, and at the first multiple of
// 16 after that.
struct FillPattern {
  std::byte unaligned[kVectorBytes];
  Word16 aligned;
};

inline PieceSplit FillSplit(const std::byte* to, std::uint64_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(to);
  return SplitBytes(address, address, bytes);  // always by whole vectors
}

inline FillPattern PatternOf(const std::byte* to, const void* element, std::size_t element_bytes) {
  FillPattern pattern;
  for (std::size_t at = 0; at < kVectorBytes; at += element_bytes) {
    std::memcpy(pattern.unaligned + at, element, element_bytes);
  }
  const std::uint32_t head = FillSplit(to, kVectorBytes).head;
  std::byte aligned[kVectorBytes];
  for (std::uint32_t i = 0; i < kVectorBytes; ++i) {
    aligned[i] = pattern.unaligned[(head + i) % kVectorBytes];
  }
  std::memcpy(&pattern.aligned, aligned, sizeof(aligned));
  return pattern;
}

inline std::uint64_t FillBlocks(const std::byte* to, std::uint64_t bytes) {
  return BlocksOf(FillSplit(to, bytes), ByteSplit::kPerBlock);
}

HORA_DEVICE inline void FillPart(std::byte* to, std::uint64_t bytes, const FillPattern& pattern,
                                 std::uint32_t block, std::uint32_t thread) {
  const PieceSplit split = ByteSplit::Of(to, to, bytes);
  const BlockRange range = RangeOf(split, ByteSplit::kPerBlock, block);
  if (range.has_head && thread < split.head) to[thread] = pattern.unaligned[thread];
  auto* const vectors = reinterpret_cast<Word16*>(to + split.head);
  for (std::uint64_t at = range.first + thread; at < range.last; at += kThreadsPerBlock) {
    vectors[at] = pattern.aligned;
  }
  if (range.has_tail && thread < split.tail) {
    const std::uint64_t at = split.head + split.vectors * split.width + thread;
    to[at] = pattern.unaligned[at % kVectorBytes];
  }
}

}  // namespace hora
