// IEEE binary16 and bfloat16 to and from float, one value at a time; the scalar twin of the SIMD
// paths.
#pragma once

#include <bit>
#include <cstdint>

namespace hora {

float HalfToFloat(std::uint16_t half);
std::uint16_t FloatToHalf(float value);  // round to nearest even; overflow → infinity

inline float BFloat16ToFloat(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
std::uint16_t FloatToBFloat16(float value);  // round to nearest even; NaN stays NaN

}  // namespace hora
