// Short texts between the ranks of a lane, by its operations on host memory.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/result.h"
#include "hora/collectives/collective_backend.h"

namespace hora {

// What each of `size` ranks says, by rank: of any bytes, at most `most` of them (equal on all
// ranks; what is longer is cut). All ranks call it. Blocks and fails as CollectiveBackend::Execute
// does.
Result<std::vector<std::string>> ExchangeOnLane(CollectiveBackend& backend, int rank, int size,
                                                std::string_view mine, std::size_t most);

}  // namespace hora
