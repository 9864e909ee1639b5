// Allgather and alltoall in a single copy: each rank reads the memory of the others.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hora/base/result.h"
#include "hora/collectives/collective_backend.h"
#include "hora/collectives/shm/step_windows.h"

namespace hora {

// Through a window each byte is copied twice and travels between the cores twice. Where the kernel
// lets one process read another's memory, ranks only say in their windows where their inputs lie,
// read from each other, and wait until all have read.
//
// Whether that works is found out by doing it. Should a rank be refused, all ranks hear of it at
// the end, and everything goes through the windows from then on. Before a rank trusts what it
// reads, it has read a number that only the right process can have.
//
// Owns nothing but what it knows of the peers. One thread at a time; blocks and fails as the
// algorithms do, and gives way between pieces. A rank whose call fails may return while others
// still read its memory, never while they write it: nobody does.
class DirectCopy {
 public:
  using ReadMemory = decltype(&process_vm_readv);

  // Only for calls in which some rank sends that many bytes at least; the same on all ranks.
  DirectCopy(const StepWindows& windows, std::uint64_t min_bytes,
             ReadMemory read = process_vm_readv);
  DirectCopy(const DirectCopy&) = delete;
  DirectCopy& operator=(const DirectCopy&) = delete;

  // The same on all ranks, as `bytes` is.
  bool IsFor(std::uint64_t bytes) const {
    return works_ && bytes >= min_bytes_ && bytes <= kMaxBytes;
  }

  // Takes `call.inputs` to all ranks' outputs: of an allgather to all, of an alltoall each to its
  // own. False, on all ranks: the outputs mean nothing, use the windows.
  Result<bool> Run(StepWindows& windows, CollectiveCall& call, std::string_view what);

 private:
  // What the memory's pace limits goes faster in small steps, read ahead and written around caches.
  static constexpr std::uint64_t kMaxBytes = 4u << 20;
  static constexpr std::size_t kMaxPieces = 64;  // of memory, on either side of one read
  using Pieces = std::array<iovec, kMaxPieces>;

  // A place in the list of pieces that a peer has put into its window.
  struct Cursor {
    const std::uint64_t* next = nullptr;  // address and length of the piece
    std::uint64_t left = 0;               // pieces, this one included
    std::uint64_t done = 0;               // bytes of this one

    std::size_t Look(std::size_t bytes, Pieces& pieces) const;
    void Advance(std::size_t bytes);
  };

  Result<bool> TellWhere(StepWindows& windows, CollectiveCall& call, std::string_view what);
  Result<bool> Agree(StepWindows& windows, bool succeeded, std::string_view what);
  Status CopyOwn(StepWindows& windows, CollectiveCall& call);
  // False: the kernel refuses.
  Result<bool> ReadFrom(StepWindows& windows, int rank, std::size_t stream, ByteStream& output);
  bool IsRightProcess(const std::uint64_t* table, int rank);

  const std::uint64_t min_bytes_;
  const ReadMemory read_;
  const std::uint64_t proof_;  // at an address that peers are told
  bool works_;
  std::vector<bool> proven_;  // by rank
  std::uint64_t step_ = 0;    // in whose windows the lists are
};

}  // namespace hora
