// How bulk is cut.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hora {

// How `total` bytes are cut into steps: as few as possible, as even as possible. Chunks are
// multiples of 64 bytes, hence of every element size.
struct Chunks {
  std::uint64_t count = 0;  // steps
  std::size_t bytes = 0;    // of every chunk but the last
  std::uint64_t total = 0;

  static Chunks Of(std::uint64_t total, std::size_t max_bytes);

  std::uint64_t Offset(std::uint64_t index) const { return index * bytes; }
  std::size_t BytesAt(std::uint64_t index) const {
    const std::uint64_t offset = Offset(index);
    if (offset >= total) return 0;
    return total - offset < bytes ? static_cast<std::size_t>(total - offset) : bytes;
  }
};

}  // namespace hora
