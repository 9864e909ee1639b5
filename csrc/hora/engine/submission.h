// What one rank can see by itself to be wrong, before anything is enqueued.
#pragma once

#include "hora/base/status.h"
#include "hora/engine/rank_device.h"
#include "hora/queue/tensor_entry.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// `rank` of the `size` ranks of a process set submits `entry`. kInvalidArgument naming the tensor,
// what is wrong with it and what would be right; kInternal for an entry whose parts contradict each
// other, which only the bindings could have made.
Status CheckSubmission(const TensorEntry& entry, int rank, int size, const RankNames& names = {});

// The GPU of the first submission on one is the rank's from then on. kInvalidArgument: this one is
// on another. That there is none at all is no error yet: all ranks hear it with the operation.
Status ChooseDevice(const Request& request, RankDevice& device);

}  // namespace hora
