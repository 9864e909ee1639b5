// From one rank's settings to what all ranks of the job go by.
#pragma once

#include "hora/base/config.h"
#include "hora/wire/tunables.h"

namespace hora {

// Rank 0's are sent to the others when the group forms.
Tunables TunablesOf(const Config& config);

}  // namespace hora
