#include "hora/tensor/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace hora {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What the bits of a 16-bit float mean, by arithmetic; NaN for NaNs.
double Meaning(std::uint16_t bits, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits;
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa == 0 ? sign * kInfinity : NAN;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

using Widen = float (*)(std::uint16_t);
using Narrow = std::uint16_t (*)(float);

void ExpectAllBitsMeanWhatTheySay(Widen widen, Narrow narrow, int exponent_bits) {
  for (int i = 0; i <= 0xFFFF; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const double meaning = Meaning(bits, exponent_bits);
    if (std::isnan(meaning)) {
      ASSERT_TRUE(std::isnan(widen(bits))) << bits;
      ASSERT_TRUE(std::isnan(Meaning(narrow(widen(bits)), exponent_bits))) << bits;
      continue;
    }
    ASSERT_EQ(widen(bits), meaning) << bits;
    ASSERT_EQ(std::signbit(widen(bits)), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(narrow(widen(bits)), bits);
  }
}

// Between each neighbouring pair: below the middle rounds down, above it up, the middle to even.
void ExpectRoundingToNearestEven(Widen widen, Narrow narrow, std::uint16_t last_finite) {
  for (std::uint16_t low = 0; low < last_finite; ++low) {
    const auto high = static_cast<std::uint16_t>(low + 1);
    const float middle = static_cast<float>((double{widen(low)} + double{widen(high)}) / 2);
    ASSERT_EQ(narrow(middle), low % 2 == 0 ? low : high) << low;
    ASSERT_EQ(narrow(std::nextafter(middle, 0.0f)), low) << low;
    ASSERT_EQ(narrow(std::nextafter(middle, kInfinity)), high) << low;
    ASSERT_EQ(narrow(-middle), 0x8000 | narrow(middle)) << low;
  }
}

TEST(Half, EveryBitPatternMeansWhatIeeeSays) {
  ExpectAllBitsMeanWhatTheySay(HalfToFloat, FloatToHalf, 5);
}

TEST(Half, RoundsToNearestEven) { ExpectRoundingToNearestEven(HalfToFloat, FloatToHalf, 0x7BFF); }

TEST(Half, OverflowsToInfinity) {
  EXPECT_EQ(FloatToHalf(65504.0f), 0x7BFF);
  EXPECT_EQ(FloatToHalf(std::nextafter(65520.0f, 0.0f)), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7C00);
  EXPECT_EQ(FloatToHalf(-1e30f), 0xFC00);
}

TEST(Half, UnderflowsToSignedZero) {
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0);
  EXPECT_EQ(FloatToHalf(std::nextafter(0x1p-25f, 1.0f)), 1);
  EXPECT_EQ(FloatToHalf(-std::numeric_limits<float>::denorm_min()), 0x8000);
}

TEST(Half, QuietsNaNsAsTheHardwareDoes) {
  EXPECT_EQ(std::bit_cast<std::uint32_t>(HalfToFloat(0x7C01)), 0x7FC02000u);
  EXPECT_EQ(FloatToHalf(std::bit_cast<float>(0xFFC00000u)), 0xFE00);
  EXPECT_EQ(FloatToHalf(std::bit_cast<float>(0x7FC02000u)), 0x7E01);
}

TEST(BFloat16, EveryBitPatternMeansWhatItSays) {
  ExpectAllBitsMeanWhatTheySay(BFloat16ToFloat, FloatToBFloat16, 8);
}

TEST(BFloat16, RoundsToNearestEven) {
  ExpectRoundingToNearestEven(BFloat16ToFloat, FloatToBFloat16, 0x7F7E);
}

TEST(BFloat16, OverflowsToInfinity) {
  EXPECT_EQ(FloatToBFloat16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(FloatToBFloat16(-std::numeric_limits<float>::max()), 0xFF80);
}

TEST(BFloat16, NaNStaysNaNEvenWhenItsPayloadIsCutOff) {
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0x7F800001u)), 0x7FC0);
  EXPECT_EQ(FloatToBFloat16(std::bit_cast<float>(0xFFFFFFFFu)), 0xFFFF);
}

}  // namespace
}  // namespace hora
