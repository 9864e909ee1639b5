#include <cmath>
#include <limits>
#include <type_traits>

#include "hora/base/check.h"
#include "hora/kernels/reduce_table.h"

namespace hora {
namespace {

// x · factor in fp64, truncated towards zero. What does not fit becomes the nearest integer that
// does, and NaN becomes 0: C++ leaves both undefined.
template <class T>
T Scaled(T x, double factor) {
  if (factor == 1.0) return x;
  using Limits = std::numeric_limits<T>;
  // 2^digits is the first value above T's range; unlike max() of 64-bit types it is a double.
  const double end = std::ldexp(1.0, Limits::digits);
  const double product = std::trunc(static_cast<double>(x) * factor);
  if (std::isnan(product)) return 0;
  if (product >= end) return Limits::max();
  if (product <= static_cast<double>(Limits::min())) return Limits::min();
  return static_cast<T>(product);
}

template <class T>
T Combined(Combine combine, T a, T b) {
  // Wide and unsigned: overflow wraps around, as in the other kernels.
  const auto x = static_cast<std::uint64_t>(a);
  const auto y = static_cast<std::uint64_t>(b);
  switch (combine) {
    case Combine::kSum:
      return static_cast<T>(x + y);
    case Combine::kMin:
      return a < b ? a : b;
    case Combine::kMax:
      return a > b ? a : b;
    case Combine::kProduct:
      return static_cast<T>(x * y);
  }
  return a;
}

template <class T>
T Divided(T x, int divisor) {
  using Wide = std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>;
  return static_cast<T>(static_cast<Wide>(x) / static_cast<Wide>(divisor));
}

template <class T>
void Run(Combine combine, const IntegerScale& scale, const ReduceCall& call) {
  for (std::size_t offset = 0; offset < call.count * sizeof(T); offset += sizeof(T)) {
    const auto operand = [&](std::size_t s) {
      T x;
      __builtin_memcpy(&x, call.sources[s] + offset, sizeof(T));
      return Scaled(x, scale.prescale);
    };
    T result = operand(0);
    for (std::size_t s = 1; s < call.source_count; ++s) {
      result = Combined(combine, result, operand(s));
    }
    result = Scaled(Divided(result, scale.divisor), scale.postscale);
    for (std::size_t d = 0; d < call.destination_count; ++d) {
      __builtin_memcpy(call.destinations[d] + offset, &result, sizeof(T));
    }
  }
}

}  // namespace

void ReduceScaledIntegers(DType dtype, Combine combine, const IntegerScale& scale,
                          const ReduceCall& call) {
  switch (dtype) {
    case DType::kUInt8:
      return Run<std::uint8_t>(combine, scale, call);
    case DType::kInt8:
      return Run<std::int8_t>(combine, scale, call);
    case DType::kUInt16:
      return Run<std::uint16_t>(combine, scale, call);
    case DType::kInt16:
      return Run<std::int16_t>(combine, scale, call);
    case DType::kUInt32:
      return Run<std::uint32_t>(combine, scale, call);
    case DType::kInt32:
      return Run<std::int32_t>(combine, scale, call);
    case DType::kUInt64:
      return Run<std::uint64_t>(combine, scale, call);
    case DType::kInt64:
      return Run<std::int64_t>(combine, scale, call);
    default:
      Check(false, "only integers are scaled as integers");
  }
}

}  // namespace hora
