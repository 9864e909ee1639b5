// The arithmetic of quantise.h, one value at a time: constant expressions, which a GPU runs as
// well.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace hora {

inline constexpr std::uint16_t kQuantisedNan = 0x7FC0;  // a scale of bfloat16

// The bits of |x|: those of finite numbers are ordered as the numbers are, and below all others.
constexpr std::uint32_t MagnitudeBits(float x) {
  return std::bit_cast<std::uint32_t>(x) & 0x7FFFFFFFu;
}

constexpr int LargestQuantised(int bits) { return (1 << (bits - 1)) - 1; }

// The scale of a block, a bfloat16, from the largest of MagnitudeBits in it.
constexpr std::uint16_t ScaleOf(std::uint32_t largest, int bits) {
  constexpr std::uint32_t kInfinity = 0x7F800000u;
  constexpr std::uint32_t kTooSmall = (127u - 100u) << 23;  // 2^-100
  if (largest >= kInfinity) return kQuantisedNan;
  if (largest < kTooSmall) return 0;
  const float scale = std::bit_cast<float>(largest) / static_cast<float>(LargestQuantised(bits));
  const auto scale_bits = std::bit_cast<std::uint32_t>(scale);
  return static_cast<std::uint16_t>((scale_bits + 0x7FFFu + (scale_bits >> 16 & 1u)) >> 16);
}

constexpr float ScaleValue(std::uint16_t scale) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(scale) << 16);
}

// To nearest even. 0 where the scale is 0 or NaN.
constexpr int QuantisedValue(float x, std::uint16_t scale, int bits) {
  if (scale == 0 || scale == kQuantisedNan) return 0;
  // In the sum the last bit is worth 1, so the addition rounds; the quotient is near 127 at most.
  constexpr float kRounds = 12582912.0f;  // 1.5 · 2^23
  const float sum = x / ScaleValue(scale) + kRounds;
  const int rounded = static_cast<int>(sum - kRounds);
  const int most = LargestQuantised(bits);
  return rounded > most ? most : rounded < -most ? -most : rounded;
}

// Never beyond ±largest, the largest number of the type that it becomes: a scale that was rounded
// up must not make an infinity of it.
constexpr float DequantisedValue(int quantised, std::uint16_t scale, float largest) {
  if (scale == kQuantisedNan) return std::numeric_limits<float>::quiet_NaN();
  const float value = static_cast<float>(quantised) * ScaleValue(scale);
  return value > largest ? largest : value < -largest ? -largest : value;
}

}  // namespace hora
