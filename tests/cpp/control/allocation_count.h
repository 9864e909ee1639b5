#pragma once

#include <cstdint>

namespace hora {

// Calls of operator new in this process so far, so that "does not allocate" can be tested.
std::uint64_t AllocationCount();

}  // namespace hora
