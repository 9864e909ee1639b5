// Memory that every rank of a process set sees: equal slices, one per rank, all mapped by each.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <vector>

#include "hora/base/result.h"
#include "hora/shm/segment.h"

namespace hora {

class SymmetricHeap;

// One region as one of its ranks has mapped it. Allocated together, dropped by each rank when it
// likes: the memory goes back to the system with the last one. It outlives the job that it came
// from. In the child of a fork it stays readable and writable, and the child's end changes nothing.
// Any thread.
class SymmetricMemory {
 public:
  ~SymmetricMemory();
  SymmetricMemory(const SymmetricMemory&) = delete;
  SymmetricMemory& operator=(const SymmetricMemory&) = delete;

  std::uint64_t number() const { return number_; }  // the same on all ranks, used once per heap
  std::span<std::byte> slice() const;               // this rank's; zeros at first
  // Rank r's slice begins r · stride() after the first; at least at a page, so that an offset has
  // the same alignment in every slice of every rank.
  std::byte* first_slice() const { return segment_.bytes().data(); }
  std::size_t stride() const { return stride_; }

  // Makes this rank's slice (kResource when memory is short), and, once all have made theirs, maps
  // the others'. Nothing may touch a slice before. Block while memory is touched.
  Status MakeSlice();
  void MapOthers() { Segment::Populate(segment_.bytes()); }

 private:
  friend class SymmetricHeap;
  struct Header;

  SymmetricMemory(std::shared_ptr<SymmetricHeap> heap, Segment segment, std::uint64_t number,
                  std::size_t offset, std::size_t stride, std::size_t bytes);
  Header& header() const;

  const std::shared_ptr<SymmetricHeap> heap_;
  const Segment segment_;
  const std::uint64_t number_;
  const std::size_t offset_;  // in the descriptor's memory
  const std::size_t stride_;
  const std::size_t bytes_;  // asked for
  const pid_t owner_;        // the process that counts as a user
};

// Where a process set's regions come from, as one of its ranks sees it: parts of the memory behind
// the host's descriptor, far beyond the boards, in a range of offsets that belongs to this set
// alone. Owns a descriptor. Any thread.
class SymmetricHeap : public std::enable_shared_from_this<SymmetricHeap> {
 public:
  // `fd` stays the caller's. kResource when no descriptor is left.
  static Result<std::shared_ptr<SymmetricHeap>> Create(int fd, int set, int rank, int size);
  ~SymmetricHeap();
  SymmetricHeap(const SymmetricHeap&) = delete;
  SymmetricHeap& operator=(const SymmetricHeap&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Whether there is room for a region of `bytes` per rank, before anybody has made it.
  Status CheckRoom(std::size_t bytes) const;
  // This rank's view of the next region; every rank calls it alike, then MakeSlice. Should one
  // fail, all drop the region, but not before each has said how it went.
  Result<std::shared_ptr<SymmetricMemory>> Map(std::size_t bytes);

  // The region in whose slice of this rank [data, data + bytes) lies; null: in none. Valid while
  // the caller knows that memory to be in use.
  const SymmetricMemory* Find(const std::byte* data, std::size_t bytes) const;

 private:
  friend class SymmetricMemory;
  SymmetricHeap(int fd, int set, int rank, int size);
  std::size_t StrideFor(std::size_t bytes) const;
  void Forget(const SymmetricMemory& region);

  const int fd_;
  const int set_;
  const int rank_;
  const int size_;
  std::mutex next_mutex_;
  std::uint64_t next_number_ = 1;  // next_mutex_
  std::size_t next_offset_;        // next_mutex_; equal on all ranks
  mutable std::shared_mutex regions_mutex_;
  std::vector<const SymmetricMemory*> regions_;  // regions_mutex_; by address of this rank's slice
};

}  // namespace hora
