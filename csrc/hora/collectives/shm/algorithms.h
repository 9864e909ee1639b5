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

}  // namespace hora
