// Allreduce without a copy: every rank reduces its share in the memory of all.
#pragma once

#include "hora/collectives/shm/algorithms.h"

namespace hora {

// An allreduce whose call has a plan. The ranks tell each other their plan's digest; where all are
// equal and not 0, they reduce the plan's ranges in place, and what lies elsewhere through the
// windows; else everything goes through the windows. plan.done says which it was, alike on all
// ranks. Blocks and fails as the other algorithms do; gives way between pieces.
Status ShmAllreduceInPlace(StepWindows& windows, ReduceState& state, CollectiveCall& call);

}  // namespace hora
