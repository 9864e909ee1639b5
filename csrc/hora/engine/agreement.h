// Words that the ranks of a process set exchange before they act together.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hora/base/result.h"
#include "hora/engine/process_set.h"

namespace hora {

// What every rank of `set` says, by place. Collective, under a name that nothing else has at the
// time; blocks until all have spoken. kStalled, and the end of the set, when that takes longer than
// 2 · `patience`.
Result<std::vector<std::string>> ExchangeTexts(ProcessSet& set, const std::string& name,
                                               std::string_view mine, Duration patience);

// All ranks say how it went: the first failure, by place, becomes everybody's status.
Status AgreeOnStatus(ProcessSet& set, const std::string& name, const Status& mine,
                     Duration patience);

// Submits `entry` with a handle of its own and works until it is done; `what` it refers to must
// outlive the call only. Blocks, and fails, as ExchangeTexts does.
Status RunToEnd(ProcessSet& set, TensorEntry entry, const std::shared_ptr<Handle>& handle,
                Duration patience);

}  // namespace hora
