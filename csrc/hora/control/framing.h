// Frames on a stream of bytes: a 32-bit length and that many bytes, at most kMaxFrameBytes. What
// both kinds of links keep of them between two calls.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "hora/base/status.h"
#include "hora/wire/limits.h"

namespace hora {

using FramePrefix = std::array<std::byte, sizeof(std::uint32_t)>;
static_assert(kMaxFrameBytes <= 0xffffffffu);

Status TooLarge(std::span<const std::byte> frame, int neighbour);

// kResource: rank `neighbour` would refuse it.
inline Status CheckFrame(std::span<const std::byte> frame, int neighbour) {
  return frame.size() <= kMaxFrameBytes ? Status::Ok() : TooLarge(frame, neighbour);
}

// What goes before a frame that has been checked.
inline FramePrefix PrefixOf(std::span<const std::byte> frame) {
  const auto length = static_cast<std::uint32_t>(frame.size());
  FramePrefix prefix;
  std::memcpy(prefix.data(), &length, sizeof(length));
  return prefix;
}

// Bytes for which there was no room, in order. Its memory is kept. One thread at a time; nothing
// blocks or fails.
class UnsentBytes {
 public:
  bool empty() const { return head_ == bytes_.size(); }
  std::span<const std::byte> bytes() const { return std::span(bytes_).subspan(head_); }

  void Keep(std::span<const std::byte> bytes);
  void Drop(std::size_t sent);  // the first ones have gone
  void Clear() { Drop(bytes_.size() - head_); }

 private:
  std::vector<std::byte> bytes_;  // from head_ on
  std::size_t head_ = 0;
};

// Puts frames together of what comes of them. One thread at a time; nothing blocks, and with a
// `frame` that is used again, frames of a size that has come before take no new memory.
class FrameReader {
 public:
  explicit FrameReader(int neighbour) : neighbour_(neighbour) {}  // its global rank, for errors

  // `read` fills a part of what it is given and says how much; 0: nothing more now. True: the next
  // frame replaces the contents of `frame`. When the neighbour broke the framing, which is final,
  // `status` becomes kInternal.
  template <class Read>
  bool Receive(const Read& read, std::vector<std::byte>& frame, Status& status) {
    if (!Fill(read, prefix_, prefix_received_)) return false;
    std::uint32_t length = 0;
    std::memcpy(&length, prefix_.data(), sizeof(length));
    if (length > kMaxFrameBytes) {
      status = TooLong(length);
      return false;
    }
    while (received_ < length) {
      partial_.resize(std::min<std::size_t>(length, received_ + kGrowth));
      if (!Fill(read, partial_, received_)) return false;
    }
    partial_.resize(length);
    std::swap(frame, partial_);
    prefix_received_ = 0;
    received_ = 0;
    return true;
  }

 private:
  // A length is believed only as far as its bytes have come: memory grows by so much ahead of them.
  static constexpr std::size_t kGrowth = 64u << 10;

  template <class Read>
  static bool Fill(const Read& read, std::span<std::byte> to, std::size_t& received) {
    while (received < to.size()) {
      const std::size_t given = read(to.subspan(received));
      if (given == 0) return false;
      received += given;
    }
    return true;
  }

  Status TooLong(std::uint32_t length) const;

  int neighbour_;
  FramePrefix prefix_{};  // of the frame that is coming
  std::size_t prefix_received_ = 0;
  std::vector<std::byte> partial_;  // its bytes so far, and room for more
  std::size_t received_ = 0;
};

}  // namespace hora
