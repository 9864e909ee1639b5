// What one rank can see by itself to be wrong, before anything is enqueued.
#pragma once

#include "hora/base/status.h"
#include "hora/queue/tensor_entry.h"

namespace hora {

// kInvalidArgument naming the tensor, what is wrong with it and what would be right.
Status CheckSubmission(const TensorEntry& entry, int size);

}  // namespace hora
