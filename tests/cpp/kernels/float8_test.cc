#include "hora/kernels/float8.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels/reference_float8.h"

namespace hora {
namespace {

class Float8 : public testing::TestWithParam<DType> {
 protected:
  static const Float8Format& format() {
    switch (GetParam()) {
      case DType::kFloat8E4M3FN:
        return kE4M3FN;
      case DType::kFloat8E4M3FNUZ:
        return kE4M3FNUZ;
      case DType::kFloat8E5M2:
        return kE5M2;
      default:
        return kE5M2FNUZ;
    }
  }

  static void ExpectNarrows(float value) {
    ASSERT_EQ(NarrowToFloat8(format(), value), FloatToFloat8(GetParam(), value)) << value;
  }
};

TEST_P(Float8, WidensAll256Values) {
  for (int bits = 0; bits < 256; ++bits) {
    const float expected = Float8ToFloat(GetParam(), static_cast<std::uint8_t>(bits));
    const float got = WidenFloat8(format(), static_cast<std::uint8_t>(bits));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(got)) << bits;
    } else {
      EXPECT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(expected)) << bits;
    }
  }
}

TEST_P(Float8, KeepsEveryValueThatItHas) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto byte = static_cast<std::uint8_t>(bits);
    const float value = WidenFloat8(format(), byte);
    EXPECT_EQ(NarrowToFloat8(format(), value), std::isnan(value) ? format().nan
                                               : std::isinf(value)
                                                   ? format().overflow | (byte & 0x80)
                                                   : byte)
        << bits;
  }
}

// Between neighbours: the middle, and one float to either side of it.
TEST_P(Float8, RoundsToTheNearestAndMiddlesToEven) {
  const Float8Definition definition = DefinitionOf(GetParam());
  for (int bits = 0; bits <= LargestFloat8(definition); ++bits) {
    const double low = Float8Magnitude(definition, bits);
    const double high = Float8Magnitude(definition, bits + 1);
    const auto middle = static_cast<float>((low + high) / 2);
    for (const float sign : {1.0f, -1.0f}) {
      ExpectNarrows(sign * middle);
      ExpectNarrows(sign * std::nextafter(middle, 0.0f));
      ExpectNarrows(sign * std::nextafter(middle, 1e9f));
    }
  }
}

TEST_P(Float8, RoundsEveryKindOfFloat) {
  for (std::uint32_t upper = 0; upper < 1u << 16; upper += 7) {
    ExpectNarrows(std::bit_cast<float>(upper << 16));
    ExpectNarrows(std::bit_cast<float>(upper << 16 | 1u));
    ExpectNarrows(std::bit_cast<float>(upper << 16 | 0xFFFFu));
  }
}

std::string NameOf(const testing::TestParamInfo<DType>& format) {
  return std::string(ToString(format.param));
}

INSTANTIATE_TEST_SUITE_P(Formats, Float8,
                         testing::Values(DType::kFloat8E4M3FN, DType::kFloat8E4M3FNUZ,
                                         DType::kFloat8E5M2, DType::kFloat8E5M2FNUZ),
                         NameOf);

// As PyTorch 2.13 casts them.
TEST(Float8Overflow, IsWhatPyTorchMakesOfIt) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  struct Case {
    float value;
    std::uint8_t e4m3fn, e4m3fnuz, e5m2, e5m2fnuz;
  };
  for (const Case& c : std::vector<Case>{
           {240.0f, 0x77, 0x7F, 0x5C, 0x60},
           {247.9f, 0x77, 0x7F, 0x5C, 0x60},
           {248.0f, 0x78, 0x80, 0x5C, 0x60},
           {480.1f, 0x7E, 0x80, 0x60, 0x64},
           {61439.0f, 0x7E, 0x80, 0x7B, 0x7F},
           {61440.0f, 0x7E, 0x80, 0x7C, 0x80},
           {kInfinity, 0x7E, 0x80, 0x7C, 0x80},
           {-1e6f, 0xFE, 0x80, 0xFC, 0x80},
           {-0.0f, 0x80, 0x00, 0x80, 0x00},
           {0x1p-17f, 0x00, 0x00, 0x00, 0x01},
           {0x1.8p-17f, 0x00, 0x00, 0x01, 0x02},
           {0x1p-10f, 0x00, 0x01, 0x14, 0x18},
       }) {
    EXPECT_EQ(NarrowToFloat8(kE4M3FN, c.value), c.e4m3fn) << c.value;
    EXPECT_EQ(NarrowToFloat8(kE4M3FNUZ, c.value), c.e4m3fnuz) << c.value;
    EXPECT_EQ(NarrowToFloat8(kE5M2, c.value), c.e5m2) << c.value;
    EXPECT_EQ(NarrowToFloat8(kE5M2FNUZ, c.value), c.e5m2fnuz) << c.value;
  }
}

}  // namespace
}  // namespace hora
