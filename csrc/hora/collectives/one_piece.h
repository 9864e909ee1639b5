// Streams of bytes that lie in one piece of memory, and need no copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hora/tensor/byte_stream.h"

namespace hora {

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
