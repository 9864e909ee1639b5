// The collectives of one host, an algorithm per file. Called by ShmBackend, which has checked the
// call; all ranks pass equal parameters and sizes, so all of them compute the same steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/shm/direct_copy.h"
#include "hora/collectives/shm/step_windows.h"
#include "hora/kernels/reduce.h"

namespace hora {

// Up to here it costs less that every rank reduces everything than that all meet a second time.
inline constexpr std::size_t kDefaultSmallBytes = 4u << 10;

// What reductions keep between calls, so that none of them allocates.
struct ReduceState {
  explicit ReduceState(int size)
      : sources(static_cast<std::size_t>(size)), destinations(static_cast<std::size_t>(size)) {}

  std::vector<const std::byte*> sources;  // operands, in the order of the ranks
  std::vector<std::byte*> destinations;   // by rank
  std::uint64_t small_bytes = kDefaultSmallBytes;
};

Status ShmAllreduce(StepWindows& windows, ReduceState& state, CollectiveCall& call);
Status ShmReducescatter(StepWindows& windows, ReduceState& state, CollectiveCall& call);
Status ShmAllgather(StepWindows& windows, DirectCopy& direct, CollectiveCall& call);
Status ShmAlltoall(StepWindows& windows, DirectCopy& direct, CollectiveCall& call);
Status ShmBroadcast(StepWindows& windows, CollectiveCall& call);

// What a reduction that `call` asks for does to each element.
ReduceSpec SpecOf(const CollectiveCall& call);
// The reduction of one rank's operand: scales, or a copy.
void ReduceAlone(ByteStream& input, ByteStream& output, const ReduceSpec& spec);

// How `total` bytes are cut into steps: as few as possible, as even as possible. Chunks are
// multiples of 64 bytes, hence of every element size.
struct Chunks {
  std::uint64_t count = 0;  // steps
  std::size_t bytes = 0;    // of every chunk but the last
  std::uint64_t total = 0;

  static Chunks Of(std::uint64_t total, std::size_t max_bytes);

  std::uint64_t Offset(std::uint64_t index) const { return index * bytes; }
  std::size_t BytesAt(std::uint64_t index) const {
    const std::uint64_t offset = Offset(index);
    if (offset >= total) return 0;
    return total - offset < bytes ? static_cast<std::size_t>(total - offset) : bytes;
  }
};

}  // namespace hora
