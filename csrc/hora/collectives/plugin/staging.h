// How the operations of a plugin are cut into steps, and what a step passes through.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hora/tensor/byte_stream.h"

namespace hora {

inline std::uint64_t CeilDivide(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

// One of the two memories that steps pass through; grows to what a step needs, and is kept.
inline std::span<std::byte> Room(std::vector<std::byte>& memory, std::size_t bytes) {
  if (memory.size() < bytes) memory.resize(bytes);
  return std::span(memory).first(bytes);
}

// What one rank moves to another (or to all) in as many steps as everybody takes: even shares, of
// whole elements and cache lines.
class Share {
 public:
  Share() = default;
  Share(std::uint64_t total, std::uint64_t steps)
      : total_(total), bytes_(steps == 0 ? 0 : CeilDivide(CeilDivide(total, steps), 64) * 64) {}

  std::uint64_t OffsetAt(std::uint64_t step) const { return std::min(step * bytes_, total_); }
  std::uint64_t BytesAt(std::uint64_t step) const { return OffsetAt(step + 1) - OffsetAt(step); }

 private:
  std::uint64_t total_ = 0;
  std::uint64_t bytes_ = 0;  // of every step but the last ones
};

// The bytes of [offset, offset + count) where they lie, when that is one piece of memory aligned
// to `alignment`; else null.
inline std::byte* InOnePiece(ByteStream& stream, std::size_t offset, std::size_t count,
                             std::size_t alignment = 1) {
  if (count == 0) return nullptr;
  const std::span<std::byte> piece = stream.FirstPiece(offset, count);
  const bool aligned = reinterpret_cast<std::uintptr_t>(piece.data()) % alignment == 0;
  return piece.size() == count && aligned ? piece.data() : nullptr;
}

// The beginning of all streams when they lie one after the other in one piece of memory; else null.
inline std::byte* OneAfterTheOther(std::vector<ByteStream>& streams) {
  std::byte* begin = nullptr;
  std::size_t end = 0;
  for (ByteStream& stream : streams) {
    if (stream.empty()) continue;
    std::byte* const piece = InOnePiece(stream, 0, stream.size());
    if (piece == nullptr || (begin != nullptr && piece != begin + end)) return nullptr;
    if (begin == nullptr) begin = piece;
    end += stream.size();
  }
  return begin;
}

}  // namespace hora
