#include "hora/collectives/shm/streaming.h"

#include <cstdint>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "hora/collectives/paired_pieces.h"

namespace hora {
namespace {

#if defined(__SSE2__)

// The hardware fetches ahead within a page, in several pages at once.
constexpr std::size_t kPage = 4096;
constexpr std::size_t kPagesAtOnce = 4;
constexpr std::size_t kLine = 64;

// `to` begins at a line.
inline void StreamLine(std::byte* to, const std::byte* from) {
  const auto* const source = reinterpret_cast<const __m128i*>(from);
  auto* const target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
  _mm_stream_si128(target, a);
  _mm_stream_si128(target + 1, b);
  _mm_stream_si128(target + 2, c);
  _mm_stream_si128(target + 3, d);
}

#endif

}  // namespace

void CopyPastCaches(std::byte* to, const std::byte* from, std::size_t count) {
#if defined(__SSE2__)
  const std::size_t head = (kLine - reinterpret_cast<std::uintptr_t>(to) % kLine) % kLine;
  if (count >= head + kLine) {
    std::memcpy(to, from, head);
    std::size_t at = head;
    for (; at + kPagesAtOnce * kPage <= count; at += kPagesAtOnce * kPage) {
      for (std::size_t line = at; line < at + kPage; line += kLine) {
        for (std::size_t page = 0; page < kPagesAtOnce * kPage; page += kPage) {
          StreamLine(to + line + page, from + line + page);
        }
      }
    }
    for (; at + kLine <= count; at += kLine) StreamLine(to + at, from + at);
    _mm_sfence();
    to += at;
    from += at;
    count -= at;
  }
#endif
  std::memcpy(to, from, count);
}

void ScatterPastCaches(ByteStream& stream, std::size_t offset, std::span<const std::byte> from) {
  const std::byte* next = from.data();
  stream.ForEachPiece(offset, from.size(), [&next](std::span<std::byte> piece) {
    CopyPastCaches(piece.data(), next, piece.size());
    next += piece.size();
  });
}

void CopyPiecesPastCaches(ByteStream& from, ByteStream& to, std::size_t offset, std::size_t count) {
  ForEachPair(from, to, offset, count, [](std::byte* source, std::byte* target, std::size_t bytes) {
    if (source != target) CopyPastCaches(target, source, bytes);
  });
}

}  // namespace hora
