// From one rank's settings to what all ranks of the job go by.
#pragma once

#include <string>

#include "hora/base/config.h"
#include "hora/control/job_group.h"
#include "hora/engine/topology.h"
#include "hora/net/channel.h"
#include "hora/wire/tunables.h"

namespace hora {

// Rank 0's are sent to the others when the group forms.
Tunables TunablesOf(const Config& config);

// How a job over several hosts is formed; `store` is where its ranks meet ("ip:port").
JobGroupOptions JobGroupOptionsOf(const Topology& topology, const Config& config,
                                  const std::string& store);
// How connections of the control plane are protected.
Protection ControlProtection(const Config& config);

}  // namespace hora
