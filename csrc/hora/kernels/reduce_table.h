// How reduce.cc reaches the kernels: a table of functions per instruction set. Internal to
// kernels/.
//
// No inline code in here: variants compiled for different CPUs include it, and a linker that keeps
// one copy of an inline function may keep the one that the running CPU lacks.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hora/tensor/dtype.h"

namespace hora {

struct ReduceCall {
  const std::byte* const* sources;
  std::size_t source_count;  // ≥ 1
  std::byte* const* destinations;
  std::size_t destination_count;
  std::size_t count;  // elements
  // Factors of floats: each operand, and the result (with the division of an average in it).
  double prescale;
  double postscale;
};

// kSum serves averages too.
enum class Combine : std::uint8_t { kSum, kMin, kMax, kProduct };
inline constexpr int kCombineCount = 4;
inline constexpr int kReducibleCount = static_cast<int>(DType::kBool) + 1;

using ReduceKernel = void (*)(const ReduceCall& call);

struct ReduceRow {
  ReduceKernel by_combine[kCombineCount];
};
struct ReduceTable {
  ReduceRow by_dtype[kReducibleCount];
};

// Integers ignore the factors of a call, bool besides has "or" for sum and "and" for product.
// Only the tables that fit the architecture exist; calling a kernel needs a CPU of its level.
const ReduceTable& ScalarReduceTable();
const ReduceTable& NeonReduceTable();
const ReduceTable& Avx2ReduceTable();
const ReduceTable& Avx512ReduceTable();

// Integers that are scaled or averaged, for any CPU: rare, and bound by fp64 conversions.
struct IntegerScale {
  double prescale;
  double postscale;
  int divisor;  // ≥ 1, before postscale
};
void ReduceScaledIntegers(DType dtype, Combine combine, const IntegerScale& scale,
                          const ReduceCall& call);

// 8-bit floats, for any CPU: rare too.
void ReduceFloat8(DType dtype, Combine combine, const ReduceCall& call);

}  // namespace hora
