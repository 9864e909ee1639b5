#include "hora/collectives/chunks.h"

namespace hora {

Chunks Chunks::Of(std::uint64_t total, std::size_t max_bytes) {
  if (total == 0) return {};
  const std::uint64_t count = (total + max_bytes - 1) / max_bytes;
  const std::uint64_t even = (total + count - 1) / count;
  // Rounding up may leave nothing for the last chunk: count again.
  const std::uint64_t bytes = (even + 63) / 64 * 64;
  return {(total + bytes - 1) / bytes, static_cast<std::size_t>(bytes), total};
}

}  // namespace hora
