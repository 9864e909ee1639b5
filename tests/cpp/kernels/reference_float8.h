// The 8-bit float formats from their definitions: a table of all 256 values, and rounding as the
// search for the nearest of them.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "hora/tensor/dtype.h"

namespace hora {

struct Float8Definition {
  int mantissa_bits;
  int bias;
  bool unsigned_zero;  // "fnuz": no infinity, and 0x80 is the one NaN
  bool has_infinity;
};

inline Float8Definition DefinitionOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat8E4M3FN:
      return {3, 7, false, false};
    case DType::kFloat8E4M3FNUZ:
      return {3, 8, true, false};
    case DType::kFloat8E5M2:
      return {2, 15, false, true};
    default:
      return {2, 16, true, false};
  }
}

inline bool IsFloat8(DType dtype) {
  return dtype >= DType::kFloat8E4M3FN && dtype <= DType::kFloat8E5M2FNUZ;
}

// Of the bits without the sign, as if all of them were numbers.
inline double Float8Magnitude(const Float8Definition& format, int magnitude) {
  const int exponent = magnitude >> format.mantissa_bits;
  const int fraction = magnitude & ((1 << format.mantissa_bits) - 1);
  if (exponent == 0) return std::ldexp(fraction, 1 - format.bias - format.mantissa_bits);
  return std::ldexp((1 << format.mantissa_bits) + fraction,
                    exponent - format.bias - format.mantissa_bits);
}

inline int LargestFloat8(const Float8Definition& format) {
  if (format.unsigned_zero) return 0x7F;
  return format.has_infinity ? 0x7B : 0x7E;
}

inline float Float8ToFloat(DType dtype, std::uint8_t bits) {
  const Float8Definition format = DefinitionOf(dtype);
  const int magnitude = bits & 0x7F;
  const bool negative = (bits & 0x80) != 0;
  double value = Float8Magnitude(format, magnitude);
  if (format.unsigned_zero && bits == 0x80) return std::numeric_limits<float>::quiet_NaN();
  if (magnitude > LargestFloat8(format)) {
    const bool infinite = format.has_infinity && magnitude == 0x7C;
    value = infinite ? std::numeric_limits<double>::infinity()
                     : std::numeric_limits<double>::quiet_NaN();
  }
  return static_cast<float>(negative ? -value : value);
}

inline std::uint8_t FloatToFloat8(DType dtype, float value) {
  const Float8Definition format = DefinitionOf(dtype);
  if (std::isnan(value)) return format.unsigned_zero ? 0x80 : 0x7F;
  const double target = std::abs(static_cast<double>(value));
  int nearest = 0;
  double distance = target;
  // One more than there are: what is nearest to that has overflowed.
  for (int candidate = 1; candidate <= LargestFloat8(format) + 1; ++candidate) {
    const double d = std::abs(Float8Magnitude(format, candidate) - target);
    if (d < distance || (d == distance && candidate % 2 == 0)) {
      nearest = candidate;
      distance = d;
    }
  }
  const int sign = std::signbit(value) ? 0x80 : 0;
  if (nearest > LargestFloat8(format)) {
    if (format.unsigned_zero) return 0x80;
    nearest = format.has_infinity ? 0x7C : 0x7E;
  }
  if (format.unsigned_zero && nearest == 0) return 0;
  return static_cast<std::uint8_t>(sign | nearest);
}

}  // namespace hora
