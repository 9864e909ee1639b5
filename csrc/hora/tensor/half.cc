#include "hora/tensor/half.h"

// Neither direction computes with subnormal floats, so that a thread that flushes them to zero
// converts like any other.

namespace hora {
namespace {

constexpr std::uint32_t kFloatSign = 0x80000000u;
constexpr std::uint32_t kFloatInfinity = 0x7F800000u;
constexpr std::uint32_t kFloatQuietBit = 0x00400000u;
constexpr std::uint32_t kExponentShift = (127u - 15u) << 23;  // between the two exponent biases

}  // namespace

float HalfToFloat(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7FFFu;
  std::uint32_t bits = (magnitude << 13) + kExponentShift;
  if (magnitude < 0x0400u) {  // zero or subnormal: a multiple of 2^-24
    bits = std::bit_cast<std::uint32_t>(static_cast<float>(magnitude) * 0x1p-24f);
  } else if (magnitude >= 0x7C00u) {
    bits = (magnitude << 13) | kFloatInfinity;
    if (magnitude > 0x7C00u) bits |= kFloatQuietBit;
  }
  return std::bit_cast<float>(sign | bits);
}

std::uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t magnitude = bits & ~kFloatSign;
  std::uint32_t half = 0;
  if (magnitude > kFloatInfinity) {
    half = 0x7E00u | (magnitude >> 13 & 0x03FFu);
  } else if (magnitude >= 0x477FF000u) {  // 65520: half way between the largest half and 2^16
    half = 0x7C00u;
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14 the result is subnormal. The last bit of a float in [0.5, 1) is worth 2^-24, as
    // that of a subnormal half: the addition rounds where the result needs it.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    half = std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5f);
  } else {
    const std::uint32_t odd = magnitude >> 13 & 1u;
    half = (magnitude - kExponentShift + 0x0FFFu + odd) >> 13;
  }
  return static_cast<std::uint16_t>((bits & kFloatSign) >> 16 | half);
}

std::uint16_t FloatToBFloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & ~kFloatSign) > kFloatInfinity) {
    return static_cast<std::uint16_t>((bits | kFloatQuietBit) >> 16);
  }
  const std::uint32_t odd = bits >> 16 & 1u;
  return static_cast<std::uint16_t>((bits + 0x7FFFu + odd) >> 16);
}

}  // namespace hora
