// Bytes on their way to or from a socket, in memory of a fixed size.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

#include "hora/base/result.h"
#include "hora/net/socket_io.h"

namespace hora {

// A queue of bytes. One thread.
class FixedBuffer {
 public:
  explicit FixedBuffer(std::size_t capacity)
      : bytes_(std::make_unique_for_overwrite<std::byte[]>(capacity)), capacity_(capacity) {}

  std::span<const std::byte> held() const { return {bytes_.get() + begin_, end_ - begin_}; }
  bool empty() const { return begin_ == end_; }
  std::size_t room() const { return capacity_ - (end_ - begin_); }

  // All of the room, to be filled from its beginning, then Add.
  std::span<std::byte> Room() {
    if (begin_ != 0) {
      std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
      end_ -= begin_;
      begin_ = 0;
    }
    return {bytes_.get() + end_, capacity_ - end_};
  }
  void Add(std::size_t count) { end_ += count; }
  void Append(std::span<const std::byte> bytes) {  // must fit
    if (bytes.empty()) return;
    std::memcpy(Room().data(), bytes.data(), bytes.size());
    Add(bytes.size());
  }
  void Drop(std::size_t count) {
    begin_ += count;
    if (empty()) begin_ = end_ = 0;
  }

  // True when all has been sent; false: not now.
  Result<bool> SendTo(int fd) {
    while (!empty()) {
      Result<std::size_t> sent = SendSome(fd, held());
      if (!sent) return Fail(std::move(sent.error()));
      if (*sent == 0) return false;
      Drop(*sent);
    }
    return true;
  }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace hora
