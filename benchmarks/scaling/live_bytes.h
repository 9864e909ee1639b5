// How much memory the program holds. Replaces the global operators new and delete.
#pragma once

#include <cstddef>

namespace hora {

// As the allocator counts it, with its rounding up.
std::size_t LiveBytes();

}  // namespace hora
