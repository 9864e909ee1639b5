#include "hora/kernels/quantise.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "hora/tensor/half.h"

namespace hora {
namespace {

struct Case {
  QuantisedFormat format;
  DType dtype;
};

class QuantiseTest : public testing::TestWithParam<Case> {
 protected:
  static const QuantisedFormat& format() { return GetParam().format; }
  static DType dtype() { return GetParam().dtype; }
  static int most() { return format().bits == 8 ? 127 : 7; }
  static double largest() {
    if (dtype() == DType::kFloat16) return 65504.0;
    return dtype() == DType::kFloat32 ? std::numeric_limits<float>::max() : 0x1.FEp127;
  }

  static std::vector<std::byte> Stored(const std::vector<float>& values) {
    std::vector<std::byte> bytes(values.size() * SizeOf(dtype()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (dtype() == DType::kFloat32) {
        std::memcpy(&bytes[4 * i], &values[i], 4);
      } else {
        const std::uint16_t bits =
            dtype() == DType::kFloat16 ? FloatToHalf(values[i]) : FloatToBFloat16(values[i]);
        std::memcpy(&bytes[2 * i], &bits, 2);
      }
    }
    return bytes;
  }

  static std::vector<float> Values(const std::vector<std::byte>& bytes) {
    std::vector<float> values(bytes.size() / SizeOf(dtype()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (dtype() == DType::kFloat32) {
        std::memcpy(&values[i], &bytes[4 * i], 4);
      } else {
        std::uint16_t bits = 0;
        std::memcpy(&bits, &bytes[2 * i], 2);
        values[i] = dtype() == DType::kFloat16 ? HalfToFloat(bits) : BFloat16ToFloat(bits);
      }
    }
    return values;
  }

  static std::vector<std::byte> Pack(const std::vector<std::byte>& stored) {
    const std::size_t elements = stored.size() / SizeOf(dtype());
    std::vector<std::byte> packed(QuantisedBytes(format(), elements));
    Quantise(format(), dtype(), stored.data(), packed.data(), elements);
    return packed;
  }

  static std::vector<std::byte> Unpack(const std::vector<std::byte>& packed, std::size_t elements) {
    std::vector<std::byte> stored(elements * SizeOf(dtype()));
    Dequantise(format(), dtype(), packed.data(), stored.data(), elements);
    return stored;
  }

  static float ScaleAt(const std::vector<std::byte>& packed, std::size_t block) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, &packed[block * QuantisedBytes(format(), format().block)], 2);
    return BFloat16ToFloat(bits);
  }

  // The integer of element `i`, by the definition of the layout.
  static int QuantisedAt(const std::vector<std::byte>& packed, std::size_t i) {
    const std::size_t block = i / format().block, inside = i % format().block;
    const std::size_t payload = block * QuantisedBytes(format(), format().block) + 2;
    if (format().bits == 8) return static_cast<std::int8_t>(packed[payload + inside]);
    const int both = std::to_integer<int>(packed[payload + inside / 2]);
    const int four = inside % 2 == 0 ? both & 15 : both >> 4;
    return four >= 8 ? four - 16 : four;
  }

  // Magnitudes of everything that the type holds, by blocks.
  std::vector<float> Random(std::size_t elements) {
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> exponent(dtype() == DType::kFloat16 ? -8 : -90,
                                                dtype() == DType::kFloat16 ? 12 : 120);
    std::vector<float> values(elements);
    int scale = 0;
    for (std::size_t i = 0; i < elements; ++i) {
      if (i % format().block == 0) scale = exponent(random_);
      values[i] = std::ldexp(normal(random_), scale);
    }
    return values;
  }

  std::mt19937 random_{20240521};
};

TEST_P(QuantiseTest, IsWhatTheDefinitionSays) {
  for (const std::size_t elements : {1u, 2u, 63u, 64u, 65u, 255u, 256u, 257u, 1000u, 4096u}) {
    const std::vector<std::byte> stored = Stored(Random(elements));
    const std::vector<float> values = Values(stored);
    const std::vector<std::byte> packed = Pack(stored);
    const std::vector<float> back = Values(Unpack(packed, elements));
    for (std::size_t i = 0; i < elements; ++i) {
      const std::size_t block = i / format().block;
      float highest = 0.0f;
      for (std::size_t j = block * format().block;
           j < std::min(elements, (block + 1) * format().block); ++j) {
        highest = std::max(highest, std::fabs(values[j]));
      }
      const float scale = BFloat16ToFloat(FloatToBFloat16(highest / static_cast<float>(most())));
      ASSERT_EQ(ScaleAt(packed, block), scale) << i;
      const double expected = std::nearbyint(values[i] / scale);
      ASSERT_EQ(QuantisedAt(packed, i), std::clamp<double>(expected, -most(), most())) << i;
      const double exact = static_cast<double>(QuantisedAt(packed, i)) * scale;
      ASSERT_LE(std::fabs(exact - values[i]), scale / 2.0) << i;
      ASSERT_EQ(Stored({static_cast<float>(std::clamp(exact, -largest(), largest()))}),
                Stored({back[i]}))
          << i;
    }
  }
}

TEST_P(QuantiseTest, WhatWasQuantisedStaysAsItIs) {
  if (dtype() == DType::kBFloat16) GTEST_SKIP() << "has fewer digits than a value and a scale";
  const std::vector<std::byte> packed = Pack(Stored(Random(5000)));
  EXPECT_EQ(Pack(Unpack(packed, 5000)), packed);
}

TEST_P(QuantiseTest, TinyBlocksAreZero) {
  if (dtype() == DType::kFloat16) GTEST_SKIP() << "has no numbers that small";
  std::vector<float> values(format().block * 2, -0x1.FEp-101f);
  values.back() = 0x1p-100f;
  const std::vector<std::byte> packed = Pack(Stored(values));
  EXPECT_EQ(ScaleAt(packed, 0), 0.0f);
  EXPECT_GT(ScaleAt(packed, 1), 0.0f);
  EXPECT_EQ(QuantisedAt(packed, 2 * format().block - 1), most());
  const std::vector<float> back = Values(Unpack(packed, values.size()));
  for (std::size_t i = 0; i < format().block; ++i) {
    ASSERT_EQ(QuantisedAt(packed, i), 0);
    ASSERT_EQ(std::bit_cast<std::uint32_t>(back[i]), 0u);
  }
}

TEST_P(QuantiseTest, ABlockWithoutFiniteValuesIsNotANumber) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> values(format().block * 3, 1.0f);
    values[format().block + 5] = bad;
    const std::vector<std::byte> packed = Pack(Stored(values));
    const std::vector<float> back = Values(Unpack(packed, values.size()));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool spoilt = i / format().block == 1;
      ASSERT_EQ(std::isnan(back[i]), spoilt) << i;
      ASSERT_EQ(QuantisedAt(packed, i), spoilt ? 0 : most()) << i;
    }
  }
}

TEST_P(QuantiseTest, TheLargestNumberStaysFinite) {
  const auto top = static_cast<float>(largest());
  std::vector<float> values(format().block, top / 3);
  values[1] = top;
  values[2] = -top;
  const std::vector<float> back = Values(Unpack(Pack(Stored(values)), values.size()));
  for (const float value : back) ASSERT_TRUE(std::isfinite(value));
  EXPECT_NEAR(back[1] / top, 1.0, 1.0 / 128);
  EXPECT_NEAR(back[2] / top, -1.0, 1.0 / 128);
}

TEST_P(QuantiseTest, HalvesGoToEven) {
  std::vector<float> values = {static_cast<float>(most()), 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 0.75f};
  const std::vector<std::byte> packed = Pack(Stored(values));  // of scale 1
  const std::vector<int> expected = {most(), 0, 2, 2, 0, -2, 1};
  for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(QuantisedAt(packed, i), expected[i]);
}

TEST_P(QuantiseTest, LeavesTheRestAlone) {
  const std::size_t elements = format().block + 3;
  const std::vector<std::byte> stored = Stored(Random(elements));
  std::vector<std::byte> packed(QuantisedBytes(format(), elements) + 2, std::byte{0xAB});
  Quantise(format(), dtype(), stored.data(), packed.data() + 1, elements);  // at an odd address
  EXPECT_EQ(packed.front(), std::byte{0xAB});
  EXPECT_EQ(packed.back(), std::byte{0xAB});
  EXPECT_EQ(std::vector(packed.begin() + 1, packed.end() - 1), Pack(stored));
}

TEST(QuantisedBytes, CountsScalesAndIntegers) {
  EXPECT_EQ(QuantisedBytes(kInt8Blocks, 0), 0u);
  EXPECT_EQ(QuantisedBytes(kInt8Blocks, 1), 3u);
  EXPECT_EQ(QuantisedBytes(kInt8Blocks, 512), 516u);
  EXPECT_EQ(QuantisedBytes(kInt4Blocks, 65), 34u + 3u);
  EXPECT_EQ(QuantisedBytes(kInt4Blocks, 128), 68u);
}

INSTANTIATE_TEST_SUITE_P(
    All, QuantiseTest,
    testing::Values(Case{kInt8Blocks, DType::kFloat32}, Case{kInt8Blocks, DType::kFloat16},
                    Case{kInt8Blocks, DType::kBFloat16}, Case{kInt4Blocks, DType::kFloat32},
                    Case{kInt4Blocks, DType::kFloat16}, Case{kInt4Blocks, DType::kBFloat16}),
    [](const testing::TestParamInfo<Case>& of) {
      return "Int" + std::to_string(of.param.format.bits) + std::string(ToString(of.param.dtype));
    });

}  // namespace
}  // namespace hora
