#pragma once

#include <cstdint>
#include <string_view>

namespace hora {

// Horovod's numbering, so that its constants mean the same here.
enum class ReduceOp : std::uint8_t {
  kAverage = 0,
  kSum = 1,
  kAdasum = 2,  // not element by element: the kernels do not know it
  kMin = 3,
  kMax = 4,
  kProduct = 5,
};

std::string_view ToString(ReduceOp op);  // "average", "sum", …

}  // namespace hora
