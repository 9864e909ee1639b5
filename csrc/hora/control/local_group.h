// A host group inside one process: its ranks are threads.
#pragma once

#include <vector>

#include "hora/control/host_group.h"

namespace hora {

// `size` groups, by rank, that share one board object (one mapping) and have no peer sockets:
// threads of one process die together. A board that cannot be made is an InvariantError.
std::vector<HostGroup> MakeLocalGroup(int size, const Tunables& tunables);

}  // namespace hora
