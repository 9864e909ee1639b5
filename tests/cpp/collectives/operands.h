// What ranks bring to a reduction, and what it must make of it.
#pragma once

#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "collectives/shm_group.h"
#include "hora/kernels/reduce.h"
#include "hora/tensor/half.h"

namespace hora {

inline OpParams Params(DType dtype, ReduceOp op, double prescale = 1, double postscale = 1) {
  OpParams params;
  params.dtype = dtype;
  params.reduce_op = op;
  params.prescale = prescale;
  params.postscale = postscale;
  return params;
}

inline constexpr ReduceOp kElementwiseOps[] = {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMin,
                                               ReduceOp::kMax, ReduceOp::kProduct};

template <class T>
void StoreAs(T value, std::byte* to) {
  std::memcpy(to, &value, sizeof(value));
}

// Random bits are fine for integers; floats get numbers whose sums need rounding.
inline Bytes RandomOperand(DType dtype, std::size_t elements, std::uint64_t seed) {
  if (dtype == DType::kComplex64) return RandomOperand(DType::kFloat32, 2 * elements, seed);
  if (dtype == DType::kComplex128) return RandomOperand(DType::kFloat64, 2 * elements, seed);
  Bytes bytes = RandomBytes(elements * SizeOf(dtype), seed);
  Random random(seed);
  std::uniform_real_distribution<float> real(-3, 3);
  for (std::size_t i = 0; i < elements; ++i) {
    const float value = real(random);
    std::byte* const at = bytes.data() + i * SizeOf(dtype);
    switch (dtype) {
      case DType::kFloat16:
        StoreAs(FloatToHalf(value), at);
        break;
      case DType::kBFloat16:
        StoreAs(FloatToBFloat16(value), at);
        break;
      case DType::kFloat32:
        StoreAs(value, at);
        break;
      case DType::kFloat64:
        StoreAs(static_cast<double>(value), at);
        break;
      case DType::kBool:
        *at &= std::byte{1};
        break;
      default:
        break;
    }
  }
  return bytes;
}

inline std::vector<Bytes> RandomOperands(DType dtype, std::size_t elements, int ranks,
                                         std::uint64_t seed) {
  std::vector<Bytes> operands;
  for (int rank = 0; rank < ranks; ++rank) {
    operands.push_back(RandomOperand(dtype, elements, seed * 100 + rank));
  }
  return operands;
}

// The whole tensor in one kernel call: what the ranks' slices must add up to, bit by bit.
inline Bytes Expected(const OpParams& params, const std::vector<Bytes>& operands, int divisor,
                      const RankSet& absent = {}) {
  const ReduceSpec spec{.dtype = params.dtype,
                        .op = params.reduce_op,
                        .prescale = params.prescale,
                        .postscale = params.postscale,
                        .divisor = divisor};
  std::vector<const std::byte*> sources;
  for (std::size_t rank = 0; rank < operands.size(); ++rank) {
    if (!absent.Contains(static_cast<int>(rank))) sources.push_back(operands[rank].data());
  }
  Bytes result(operands[0].size());
  std::byte* const to = result.data();
  Reduce(spec, sources, {&to, 1}, result.size() / SizeOf(params.dtype));
  return result;
}

}  // namespace hora
