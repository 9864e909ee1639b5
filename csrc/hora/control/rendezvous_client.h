// The side of every rank but 0 of forming a host group.
#pragma once

#include "hora/base/clock.h"
#include "hora/base/result.h"
#include "hora/control/host_group.h"

namespace hora {

// Blocks until rank 0 says that everybody is there, refuses, hangs up, or the deadline. The key is
// shown only to a process of the same user.
Result<HostGroup> JoinRendezvous(const HostGroupOptions& options, TimePoint deadline);

// As TellHostGroup.
Status RefuseRendezvous(const HostGroupOptions& options, const Status& problem, TimePoint deadline);

}  // namespace hora
