// What NCCL calls hora's types and reductions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "hora/collectives/nccl/nccl_api.h"
#include "hora/tensor/dtype.h"
#include "hora/tensor/reduce_op.h"

namespace hora {

// A reduction as NCCL does it: on `elements` of `type` for each of the tensor's.
struct NcclReduction {
  nccl::DataType type = nccl::DataType::kFloat32;
  nccl::RedOp op = nccl::RedOp::kSum;
  std::size_t elements = 1;  // 2: of a complex number
};

// None where NCCL (of this version, on a device of this compute capability) has no such reduction,
// or another one than hora. Averages are sums here: who divides is decided with the call.
std::optional<NcclReduction> NcclReductionOf(DType dtype, ReduceOp op, int version,
                                             int compute_major);

// The type that arithmetic on one element at a time sees: of a complex number, its parts'.
DType ComponentOf(DType dtype);

// What an operand has that changes nothing; SizeOf(ComponentOf(dtype)) bytes.
class NeutralElement {
 public:
  NeutralElement(DType dtype, ReduceOp op);
  std::span<const std::byte> bytes() const { return std::span(bytes_).first(size_); }

 private:
  std::array<std::byte, 8> bytes_{};
  std::size_t size_ = 0;
};

}  // namespace hora
