// What every rank's log says about operations that wait too long.
#pragma once

#include <span>

#include "hora/tensor/rank_names.h"
#include "hora/wire/control_message.h"

namespace hora {

// Warnings of global rank `rank`. A rank that skips a whole step leaves hundreds of names behind;
// the first few tell enough.
void LogStalls(int process_set, int rank, const RankNames& names,
               std::span<const StallSummary> stalls);

}  // namespace hora
