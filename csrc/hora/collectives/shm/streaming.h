// Copies out of the shared windows that keep the memory system busy.
//
// Lines that another core has written come one after the other, at the pace of the cores' network
// (3–4 ns each), and the way to memory idles meanwhile. So a copy of them also fetches what the
// rank will copy next.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

#include "hora/tensor/byte_stream.h"

namespace hora {

// From here on tensors do not fit the cache that a core has to itself, and fetching them early
// pays; below, it only takes time from the copy.
inline constexpr std::size_t kFetchEarlyBytes = 2u << 20;

// Results from here on are out of the cache before anybody reads them.
inline constexpr std::size_t kPastCachesBytes = 16u << 20;

// memcpy that writes around the caches: lines that are only written need not be read first, and
// nothing that is needed sooner makes room for them.
void CopyPastCaches(std::byte* to, const std::byte* from, std::size_t count);
// ByteStream::Scatter, and CopyPieces, that do.
void ScatterPastCaches(ByteStream& stream, std::size_t offset, std::span<const std::byte> from);
void CopyPiecesPastCaches(ByteStream& from, ByteStream& to, std::size_t offset, std::size_t count);

// Bytes that will be read soon. Fetching past their end does nothing.
class Ahead {
 public:
  Ahead() = default;
  explicit Ahead(std::span<const std::byte> bytes) : bytes_(bytes) {}

  // Brings the next `count` of them into the second-level cache; does not wait for it.
  void Fetch(std::size_t count) {
    count = std::min(count, bytes_.size());
    for (std::size_t at = 0; at < count; at += 64) __builtin_prefetch(bytes_.data() + at, 0, 2);
    bytes_ = bytes_.subspan(count);
  }

 private:
  std::span<const std::byte> bytes_;
};

// A copy of what other cores have written, fetching as many bytes of `ahead`.
inline void CopyFetching(std::byte* to, const std::byte* from, std::size_t count, Ahead& ahead) {
  constexpr std::size_t kBlock = 256;
  std::size_t at = 0;
  for (; at + kBlock <= count; at += kBlock) {
    ahead.Fetch(kBlock);
    std::memcpy(to + at, from + at, kBlock);
  }
  std::memcpy(to + at, from + at, count - at);
}

// ByteStream::Scatter of what other cores have written.
inline void ScatterFetching(ByteStream& stream, std::size_t offset, std::span<const std::byte> from,
                            Ahead& ahead) {
  const std::byte* next = from.data();
  stream.ForEachPiece(offset, from.size(), [&](std::span<std::byte> piece) {
    CopyFetching(piece.data(), next, piece.size(), ahead);
    next += piece.size();
  });
}

}  // namespace hora
