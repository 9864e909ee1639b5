#include <cmath>
#include <limits>
#include <type_traits>

#include "hora/base/check.h"
#include "hora/kernels/reduce_table.h"

namespace hora {
namespace {

__extension__ using Int128 = __int128;

// Holds the sum of any number of ranks' values exactly.
template <class T>
using Wide = std::conditional_t<sizeof(T) < sizeof(std::int64_t), std::int64_t, Int128>;

// x · factor in fp64, truncated towards zero. What does not fit becomes the nearest integer that
// does, and NaN becomes 0: C++ leaves both undefined. Without a factor, x wraps around.
template <class T, class From>
T Scaled(From x, double factor) {
  if (factor == 1.0) return static_cast<T>(x);
  using Limits = std::numeric_limits<T>;
  // 2^digits is the first value above T's range; unlike max() of 64-bit types it is a double.
  const double end = std::ldexp(1.0, Limits::digits);
  const double product = std::trunc(static_cast<double>(x) * factor);
  if (std::isnan(product)) return 0;
  if (product >= end) return Limits::max();
  if (product <= static_cast<double>(Limits::min())) return Limits::min();
  return static_cast<T>(product);
}

// Sums are exact, so that a mean is right whenever it fits; products wrap around at T.
template <class T>
Wide<T> Combined(Combine combine, Wide<T> a, T b) {
  switch (combine) {
    case Combine::kSum:
      return a + b;
    case Combine::kMin:
      return a < b ? a : b;
    case Combine::kMax:
      return a > b ? a : b;
    case Combine::kProduct:
      return static_cast<T>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
  }
  return a;
}

template <class T>
void Run(Combine combine, const IntegerScale& scale, const ReduceCall& call) {
  for (std::size_t offset = 0; offset < call.count * sizeof(T); offset += sizeof(T)) {
    const auto operand = [&](std::size_t s) {
      T x;
      __builtin_memcpy(&x, call.sources[s] + offset, sizeof(T));
      return Scaled<T>(x, scale.prescale);
    };
    Wide<T> combined = operand(0);
    for (std::size_t s = 1; s < call.source_count; ++s) {
      combined = Combined<T>(combine, combined, operand(s));
    }
    const T result = Scaled<T>(combined / scale.divisor, scale.postscale);
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
