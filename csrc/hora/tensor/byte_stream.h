// Several buffers read or written as one stream of bytes: how a fused batch of tensors looks to a
// collective, without a copy into a staging buffer first.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace hora {

// A value type over memory it does not own. Gather and Scatter touch [offset, offset + n) and are
// cheapest when offsets ascend (a cursor remembers the last segment). One thread at a time.
class ByteStream {
 public:
  ByteStream() = default;
  explicit ByteStream(std::vector<std::span<std::byte>> segments);

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  // Copies stream bytes [offset, offset + to.size()) into `to`; the range must lie inside the
  // stream.
  void Gather(std::size_t offset, std::span<std::byte> to);
  // Copies `from` over stream bytes [offset, offset + from.size()).
  void Scatter(std::size_t offset, std::span<const std::byte> from);

  // The beginning of [offset, offset + count), which is not empty, as far as it is contiguous.
  std::span<std::byte> FirstPiece(std::size_t offset, std::size_t count);

  // Calls visit(span) for each contiguous piece of [offset, offset + count), in order.
  template <class Visit>
  void ForEachPiece(std::size_t offset, std::size_t count, Visit&& visit) {
    if (count == 0) return;
    Seek(offset);
    std::size_t inside = offset - segment_begin_;
    for (;; AdvanceSegment(), inside = 0) {
      const auto piece = Current().subspan(inside);
      const auto part = piece.first(count < piece.size() ? count : piece.size());
      if (!part.empty()) visit(part);
      count -= part.size();
      if (count == 0) break;
    }
  }

 private:
  void Seek(std::size_t offset);
  void AdvanceSegment();
  std::span<std::byte> Current() const { return segments_[segment_]; }

  std::vector<std::span<std::byte>> segments_;
  std::size_t size_ = 0;
  std::size_t segment_ = 0;        // cursor: index of the current segment …
  std::size_t segment_begin_ = 0;  // … and the stream offset at which it starts
};

}  // namespace hora
