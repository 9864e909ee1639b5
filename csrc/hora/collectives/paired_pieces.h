// Two streams walked side by side.
#pragma once

#include <cstring>

#include "hora/tensor/byte_stream.h"

namespace hora {

// Calls visit(from, to, bytes) for each part of [offset, offset + count) that is whole in both.
template <class Visit>
void ForEachPair(ByteStream& from, ByteStream& to, std::size_t offset, std::size_t count,
                 Visit&& visit) {
  if (count == 0) return;  // the offset may then be the end of the streams
  to.ForEachPiece(offset, count, [&](std::span<std::byte> target) {
    std::byte* into = target.data();
    from.ForEachPiece(offset, target.size(), [&](std::span<std::byte> source) {
      visit(source.data(), into, source.size());
      into += source.size();
    });
    offset += target.size();
  });
}

// Copies between this rank's own streams; nothing to do where they are the same memory.
inline void CopyPieces(ByteStream& from, ByteStream& to, std::size_t offset, std::size_t count) {
  ForEachPair(from, to, offset, count, [](std::byte* source, std::byte* target, std::size_t bytes) {
    if (source != target) std::memcpy(target, source, bytes);
  });
}

}  // namespace hora
