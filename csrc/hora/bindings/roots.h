// A broadcast's root: people name it by its global rank, the engine by its place in the set.
#pragma once

#include "hora/base/result.h"
#include "hora/engine/process_set.h"

namespace hora::bindings {

// The error names the rank and those that are in the set. In the global set, the engine itself
// refuses what is no rank.
Result<int> PlaceOfRoot(int root_rank, const ProcessSet& set);

}  // namespace hora::bindings
