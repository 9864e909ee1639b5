// Bytes of one direction that are under way to or from one peer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace hora {

// A queue of pieces of memory, in the order of the stream; small neighbours pass through a buffer
// of a fixed size, so that a batch of many little tensors costs few system calls. Keeps its memory.
// One thread.
class PeerQueue {
 public:
  void Push(std::span<std::byte> piece) {
    if (piece.empty()) return;
    pieces_.push_back(piece);
    queued_ += piece.size();
  }

  std::uint64_t queued() const { return queued_; }  // since Restart
  std::uint64_t moved() const { return moved_; }
  bool idle() const { return moved_ == queued_; }

  // Counts from zero again; idle.
  void Restart() {
    queued_ = moved_ = 0;
    Drop();
  }

  // What goes out next. The same bytes lead until they are moved.
  std::span<const std::byte> NextToSend() {
    if (!buffered_.empty()) return buffered_;
    const std::span<std::byte> first = First();
    if (!Buffers(first)) return first;
    buffered_ = Room();
    std::size_t at = 0;
    for (std::size_t i = head_; i < pieces_.size() && at < buffered_.size(); ++i) {
      const auto piece = i == head_ ? first : pieces_[i];
      const std::size_t count = std::min(piece.size(), buffered_.size() - at);
      std::memcpy(buffered_.data() + at, piece.data(), count);
      at += count;
    }
    buffered_ = buffered_.first(at);
    return buffered_;
  }
  void Sent(std::size_t count) {
    if (!buffered_.empty()) buffered_ = buffered_.subspan(count);
    Advance(count);
  }

  // Where bytes that come in next are to go.
  std::span<std::byte> NextToReceive() {
    const std::span<std::byte> first = First();
    if (!Buffers(first)) return first;
    const std::span<std::byte> room = Room();
    return room.first(
        static_cast<std::size_t>(std::min<std::uint64_t>(room.size(), queued_ - moved_)));
  }
  void Received(std::span<const std::byte> bytes) {
    if (Buffers(First())) {
      while (!bytes.empty()) {
        const std::span<std::byte> piece = First();
        const auto part = bytes.first(std::min(bytes.size(), piece.size()));
        std::memcpy(piece.data(), part.data(), part.size());
        bytes = bytes.subspan(part.size());
        Advance(part.size());
      }
      return;
    }
    Advance(bytes.size());
  }

 private:
  static constexpr std::size_t kSmallPiece = 16u << 10;
  static constexpr std::size_t kBufferBytes = 64u << 10;

  std::span<std::byte> First() const { return pieces_[head_].subspan(offset_); }
  // The last piece goes directly, however small it is.
  bool Buffers(std::span<const std::byte> first) const {
    return first.size() < kSmallPiece && head_ + 1 < pieces_.size();
  }
  std::span<std::byte> Room() {
    if (buffer_.empty()) buffer_.resize(kBufferBytes);
    return buffer_;
  }

  void Advance(std::size_t count) {
    moved_ += count;
    while (count > 0) {
      const std::size_t of_first = std::min(count, First().size());
      offset_ += of_first;
      count -= of_first;
      if (offset_ < pieces_[head_].size()) continue;
      offset_ = 0;
      if (++head_ == pieces_.size()) Drop();
    }
  }
  void Drop() {
    pieces_.clear();
    head_ = offset_ = 0;
  }

  std::vector<std::span<std::byte>> pieces_;
  std::size_t head_ = 0;    // the first piece that has not all moved …
  std::size_t offset_ = 0;  // … and how much of it has
  std::vector<std::byte> buffer_;
  std::span<std::byte> buffered_;  // of an outgoing queue: taken from the pieces, not yet moved
  std::uint64_t queued_ = 0;
  std::uint64_t moved_ = 0;
};

}  // namespace hora
