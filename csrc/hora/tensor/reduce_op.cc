#include "hora/tensor/reduce_op.h"

namespace hora {

std::string_view ToString(ReduceOp op) {
  switch (op) {
    case ReduceOp::kAverage:
      return "average";
    case ReduceOp::kSum:
      return "sum";
    case ReduceOp::kAdasum:
      return "adasum";
    case ReduceOp::kMin:
      return "min";
    case ReduceOp::kMax:
      return "max";
    case ReduceOp::kProduct:
      return "product";
  }
  return "unknown reduction";
}

bool IsReducible(DType dtype, ReduceOp op) {
  if (op == ReduceOp::kAdasum) return IsFloatingPoint(dtype);
  switch (dtype) {
    case DType::kBool:
      return op != ReduceOp::kAverage;
    case DType::kComplex64:
    case DType::kComplex128:
      return op == ReduceOp::kSum || op == ReduceOp::kAverage;
    case DType::kFloat8E8M0FNU:
    case DType::kComplex32:
      return false;
    default:
      return true;
  }
}

}  // namespace hora
