// How texts name the process set that they are about.
#pragma once

#include "hora/base/status.h"

namespace hora {

// Says at the front of an error which process set it happened in, unless that is the global one
// (0).
Status InProcessSet(int process_set, Status status);

}  // namespace hora
