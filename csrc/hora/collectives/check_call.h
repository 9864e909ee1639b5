// What algorithms rely on.
#pragma once

#include "hora/collectives/collective_backend.h"

namespace hora {

// InvariantError unless the streams of rank `self` of `size` have the sizes that `call` states; a
// broken promise would be a write out of bounds in an algorithm.
void CheckCall(const CollectiveCall& call, int self, int size);

// Whether an operation is on host memory, and a reduction one that the kernels can do.
bool CpuCan(const OpParams& params);

}  // namespace hora
