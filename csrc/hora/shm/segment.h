// Anonymous shared memory: nothing in /dev/shm to leave behind, whatever kills the process.
#pragma once

#include <cstddef>
#include <span>

#include "hora/base/result.h"

namespace hora {

// Owns one mapping and, unless it is a part, the descriptor (memfd, close-on-exec) behind it.
// Moves, never copies. Any thread.
class Segment {
 public:
  // Memory is reserved now (kResource with needed and available bytes), so that no later touch can
  // end in SIGBUS; sealed against shrinking, but it may grow.
  static Result<Segment> Create(std::size_t bytes);
  // Maps a descriptor received from another process and takes ownership of it. Refuses one that is
  // not sealed against shrinking.
  static Result<Segment> Attach(int fd);

  // Part of the memory behind `fd`, which stays the caller's; a part has no descriptor (-1) and
  // outlives it. `offset` is a multiple of the page size. CreatePart reserves the bytes, which are
  // zero, and lets the memory grow where it ends before them; after a failure all is as before.
  // AttachPart refuses what lies beyond the end.
  static Result<Segment> CreatePart(int fd, std::size_t offset, std::size_t bytes);
  static Result<Segment> AttachPart(int fd, std::size_t offset, std::size_t bytes);
  // The steps of CreatePart one by one, for a part that several processes fill together. CheckRoom:
  // whether so much memory is there to be reserved. ReservePart: makes sure of it, and lets the
  // memory grow; what is there stays as it is. MapPart: maps what is there and what will be, where
  // it suits huge pages, and asks for these; touching what nobody has reserved may end in SIGBUS.
  static Status CheckRoom(std::size_t offset, std::size_t bytes);
  static Status ReservePart(int fd, std::size_t offset, std::size_t bytes);
  static Result<Segment> MapPart(int fd, std::size_t offset, std::size_t bytes);
  // Gives the memory of a part back; whoever still has it mapped reads zeros.
  static void FreePart(int fd, std::size_t offset, std::size_t bytes);

  Segment(Segment&& other) noexcept;
  Segment& operator=(Segment&& other) noexcept;
  ~Segment();

  // Spares whole pages of a mapping the faults of their first touch. A hint: older kernels ignore
  // it.
  static void Populate(std::span<std::byte> bytes);

  std::span<std::byte> bytes() const { return bytes_; }
  int fd() const { return fd_; }

 private:
  Segment(int fd, std::span<std::byte> bytes) : fd_(fd), bytes_(bytes) {}

  int fd_ = -1;
  std::span<std::byte> bytes_;
};

}  // namespace hora
