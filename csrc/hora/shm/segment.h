// Anonymous shared memory: nothing in /dev/shm to leave behind, whatever kills the process.
#pragma once

#include <cstddef>
#include <span>

#include "hora/base/result.h"

namespace hora {

// Owns one mapping and the descriptor (memfd, close-on-exec) behind it. Moves, never copies.
class Segment {
 public:
  // Memory is reserved now (kResource with needed and available bytes), so that no later touch can
  // end in SIGBUS; sealed against shrinking.
  static Result<Segment> Create(std::size_t bytes);
  // Maps a descriptor received from another process and takes ownership of it. Refuses one that is
  // not sealed against shrinking.
  static Result<Segment> Attach(int fd);

  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  std::span<std::byte> bytes() const { return bytes_; }
  int fd() const { return fd_; }

 private:
  Segment(int fd, std::span<std::byte> bytes) : fd_(fd), bytes_(bytes) {}

  int fd_ = -1;
  std::span<std::byte> bytes_;
};

}  // namespace hora
