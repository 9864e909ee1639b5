// The four 8-bit float formats of PyTorch to and from fp32, one value at a time.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace hora {

// How a format reads its bits, and what becomes of values beyond its largest.
struct Float8Format {
  int mantissa_bits;
  int bias;
  std::uint8_t largest;   // finite
  std::uint8_t overflow;  // instead of anything larger
  std::uint8_t nan;       // the canonical one
  bool signed_zero;       // else the bits of -0 are the only NaN
};

// "fn": finite, no infinity, so values that are too large become the largest. "uz": unsigned zero.
// As PyTorch casts.
inline constexpr Float8Format kE4M3FN{3, 7, 0x7E, 0x7E, 0x7F, true};
inline constexpr Float8Format kE4M3FNUZ{3, 8, 0x7F, 0x80, 0x80, false};
inline constexpr Float8Format kE5M2{2, 15, 0x7B, 0x7C, 0x7F, true};
inline constexpr Float8Format kE5M2FNUZ{2, 16, 0x7F, 0x80, 0x80, false};

// 2^exponent as a float; exponent in that of normal floats.
constexpr float PowerOfTwo(int exponent) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(exponent + 127) << 23);
}

constexpr float WidenFloat8(const Float8Format& format, std::uint8_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80u) << 24;
  const std::uint32_t magnitude = bits & 0x7Fu;
  const bool infinite =
      format.overflow == format.largest + 1 && magnitude == format.overflow && format.signed_zero;
  const bool nan = format.signed_zero ? magnitude > format.largest : bits == format.nan;
  if (infinite) return std::bit_cast<float>(sign | 0x7F800000u);
  if (nan) return std::bit_cast<float>(sign | 0x7FC00000u);
  if (magnitude >> format.mantissa_bits == 0) {  // zero or subnormal
    const float value =
        static_cast<float>(magnitude) * PowerOfTwo(1 - format.bias - format.mantissa_bits);
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
  }
  const auto rebias = static_cast<std::uint32_t>(127 - format.bias) << 23;
  return std::bit_cast<float>(sign | ((magnitude << (23 - format.mantissa_bits)) + rebias));
}

constexpr std::array<float, 256> Float8Values(const Float8Format& format) {
  std::array<float, 256> values{};
  for (unsigned bits = 0; bits < 256; ++bits) {
    values[bits] = WidenFloat8(format, static_cast<std::uint8_t>(bits));
  }
  return values;
}

// To nearest even.
constexpr std::uint8_t NarrowToFloat8(const Float8Format& format, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) return format.nan;
  const int dropped = 23 - format.mantissa_bits;
  const auto rebias = static_cast<std::uint32_t>(127 - format.bias) << 23;
  std::uint32_t rounded = 0;
  if (magnitude >= rebias + (1u << 23)) {
    const std::uint32_t odd = magnitude >> dropped & 1u;
    rounded = (magnitude - rebias + (1u << (dropped - 1)) - 1u + odd) >> dropped;
  } else {
    // Subnormal: the sum's last bit is worth that of the result, so the addition rounds.
    const float shifter = PowerOfTwo(1 - format.bias - format.mantissa_bits + 23);
    const float sum = std::bit_cast<float>(magnitude) + shifter;
    rounded = std::bit_cast<std::uint32_t>(sum) - std::bit_cast<std::uint32_t>(shifter);
  }
  if (rounded > format.largest) {
    rounded = format.overflow;
    if (rounded == format.nan) return format.nan;
  }
  const bool drop_sign = rounded == 0 && !format.signed_zero;
  return static_cast<std::uint8_t>(rounded | (drop_sign ? 0u : bits >> 24 & 0x80u));
}

}  // namespace hora
