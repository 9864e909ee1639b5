// How the ranks of a group learn NCCL's id.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/net/store.h"

namespace hora {

inline constexpr std::size_t kMaxSharedIdBytes = 512;

// Rank 0's text, of 1 to kMaxSharedIdBytes bytes of any value, to all ranks of the group, over a
// way that authenticates them: whoever knows an id may join. All ranks call it, the others with "",
// and each gets rank 0's text. Blocks at most until the deadline; kTimeout.
using ShareId = std::function<Result<std::string>(const std::string& mine, TimePoint deadline)>;

// Rank 0 sets `key`, which nobody has set before in this job; the others wait for it, and look now
// and then whether the group is `lost`, which may be empty.
ShareId OverStore(std::shared_ptr<Store> store, std::string key, bool is_first,
                  std::function<Status()> lost);

}  // namespace hora
