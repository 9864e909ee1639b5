#pragma once

#include <cstdint>
#include <string_view>

#include "hora/tensor/dtype.h"

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

// Whether tensors of this dtype may be operands of this reduction. Truths have no average; complex
// numbers have no order, so they are only added; Adasum needs floating-point numbers of 16 bits or
// more; float8_e8m0fnu and complex32 are moved, never reduced.
bool IsReducible(DType dtype, ReduceOp op);

}  // namespace hora
