// What the numbers of a reduction are, by hand; the bits of every CPU level are in
// reduce_levels_test.cc.
#include "hora/kernels/reduce.h"

#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <vector>

#include "hora/base/check.h"
#include "hora/tensor/half.h"

namespace hora {
namespace {

// Reduces one vector per rank in place, checks that all ranks got the same, and returns it.
template <class T>
std::vector<T> Reduced(const ReduceSpec& spec, std::vector<std::vector<T>> ranks) {
  std::vector<const std::byte*> sources;
  std::vector<std::byte*> destinations;
  for (std::vector<T>& rank : ranks) {
    destinations.push_back(reinterpret_cast<std::byte*>(rank.data()));
    sources.push_back(destinations.back());
  }
  Reduce(spec, sources, destinations, ranks[0].size());
  for (const std::vector<T>& rank : ranks) {
    EXPECT_EQ(std::memcmp(rank.data(), ranks[0].data(), rank.size() * sizeof(T)), 0);
  }
  return ranks[0];
}

template <class T>
T ReducedOne(const ReduceSpec& spec, std::vector<T> ranks) {
  std::vector<std::vector<T>> wrapped;
  for (const T x : ranks) wrapped.push_back({x});
  return Reduced(spec, wrapped)[0];
}

TEST(Reduce, SumsFloats) {
  EXPECT_EQ(Reduced<float>({}, {{1, 2, -3}, {10, 20, 30}, {100, 200, 300}}),
            (std::vector<float>{111, 222, 327}));
}

TEST(Reduce, AveragesByOneMultiplication) {
  const ReduceSpec average{.op = ReduceOp::kAverage, .postscale = 6.0, .divisor = 3};
  EXPECT_EQ(Reduced<float>(average, {{1, 2}, {2, 3}, {3, 7}}), (std::vector<float>{12, 24}));
}

TEST(Reduce, CombinesInTheOrderOfTheSources) {
  // (1e30 - 1e30) + 1, never 1e30 + (-1e30 + 1).
  EXPECT_EQ(ReducedOne<float>({}, {1e30f, -1e30f, 1.0f}), 1.0f);
  EXPECT_EQ(ReducedOne<float>({}, {1.0f, 1e30f, -1e30f}), 0.0f);
}

TEST(Reduce, KeepsTheSignOfZero) {
  EXPECT_TRUE(std::signbit(ReducedOne<float>({}, {-0.0f, -0.0f})));
  EXPECT_FALSE(std::signbit(ReducedOne<float>({}, {-0.0f, 0.0f})));
}

TEST(Reduce, RoundsSixteenBitFloatsOnce) {
  // Next to 1 the step of a bfloat16 is 2^-7: half a step rounds to even, two halves are a step.
  const std::uint16_t one = FloatToBFloat16(1.0f);
  const std::uint16_t half_a_step = FloatToBFloat16(0x1p-8f);
  const ReduceSpec sum{.dtype = DType::kBFloat16};
  EXPECT_EQ(ReducedOne<std::uint16_t>(sum, {one, half_a_step}), one);
  EXPECT_EQ(ReducedOne<std::uint16_t>(sum, {one, half_a_step, half_a_step}), one + 1);

  // The sum of two halves may leave their range, their average does not.
  const std::uint16_t large = FloatToHalf(60000.0f);
  const ReduceSpec average{.dtype = DType::kFloat16, .op = ReduceOp::kAverage, .divisor = 2};
  EXPECT_EQ(ReducedOne<std::uint16_t>(average, {large, large}), large);
  EXPECT_EQ(ReducedOne<std::uint16_t>({.dtype = DType::kFloat16}, {large, large}), 0x7C00);
}

TEST(Reduce, PropagatesNaNThroughMinAndMax) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const ReduceOp op : {ReduceOp::kMin, ReduceOp::kMax}) {
    EXPECT_TRUE(std::isnan(ReducedOne<float>({.op = op}, {nan, 1.0f, 2.0f})));
    EXPECT_TRUE(std::isnan(ReducedOne<float>({.op = op}, {1.0f, nan, 2.0f})));
    EXPECT_TRUE(std::isnan(ReducedOne<float>({.op = op}, {1.0f, 2.0f, nan})));
  }
  EXPECT_EQ(ReducedOne<float>({.op = ReduceOp::kMin}, {2.0f, -1.0f, 3.0f}), -1.0f);
  EXPECT_EQ(ReducedOne<float>({.op = ReduceOp::kMax}, {2.0f, -1.0f, 3.0f}), 3.0f);
}

TEST(Reduce, WrapsIntegersAround) {
  EXPECT_EQ(ReducedOne<std::uint8_t>({.dtype = DType::kUInt8}, {200, 100}), 44);
  EXPECT_EQ(ReducedOne<std::int8_t>({.dtype = DType::kInt8}, {127, 1}), -128);
  EXPECT_EQ(ReducedOne<std::uint16_t>({.dtype = DType::kUInt16, .op = ReduceOp::kProduct},
                                      {0xFFFF, 0xFFFF}),
            1);
  EXPECT_EQ(ReducedOne<std::int64_t>({.dtype = DType::kInt64},
                                     {std::numeric_limits<std::int64_t>::max(), 1}),
            std::numeric_limits<std::int64_t>::min());
}

TEST(Reduce, ScalesIntegersInDoubleAndTruncates) {
  const ReduceSpec spec{.dtype = DType::kInt32, .prescale = 0.5};
  EXPECT_EQ(Reduced<std::int32_t>(spec, {{3, -3}, {3, -3}}), (std::vector<std::int32_t>{2, -2}));
  const ReduceSpec after{.dtype = DType::kInt32, .postscale = 0.5};
  EXPECT_EQ(ReducedOne<std::int32_t>(after, {-4, -3}), -3);
}

TEST(Reduce, AMeanOfIntegersNeverWraps) {
  const auto mean = [](DType dtype, auto value) {
    const ReduceSpec spec{.dtype = dtype, .op = ReduceOp::kAverage, .divisor = 3};
    using T = decltype(value);
    return Reduced(spec, std::vector<std::vector<T>>(3, {value}))[0];
  };
  EXPECT_EQ(mean(DType::kUInt8, std::uint8_t{200}), 200);
  EXPECT_EQ(mean(DType::kInt8, std::int8_t{-128}), -128);
  EXPECT_EQ(mean(DType::kInt32, std::int32_t{2'000'000'000}), 2'000'000'000);
  EXPECT_EQ(mean(DType::kUInt64, ~std::uint64_t{0}), ~std::uint64_t{0});
}

TEST(Reduce, AveragesIntegersTowardsZero) {
  const ReduceSpec spec{.dtype = DType::kInt64, .op = ReduceOp::kAverage, .divisor = 2};
  EXPECT_EQ(Reduced<std::int64_t>(spec, {{3, -3, (1LL << 62) - 1}, {4, -4, 1LL << 61}}),
            (std::vector<std::int64_t>{3, -3, ((1LL << 62) - 1 + (1LL << 61)) / 2}));
}

TEST(Reduce, TruncatesAMeanOfIntegersBeforeItIsScaledBack) {
  const ReduceSpec spec{
      .dtype = DType::kInt64, .op = ReduceOp::kAverage, .postscale = 2.0, .divisor = 2};
  EXPECT_EQ(ReducedOne<std::int64_t>(spec, {3, 4}), 6);
}

TEST(Reduce, ClampsScaledIntegersThatDoNotFit) {
  EXPECT_EQ(ReducedOne<std::uint8_t>({.dtype = DType::kUInt8, .postscale = 2.0}, {100, 100}), 255);
  EXPECT_EQ(ReducedOne<std::uint8_t>({.dtype = DType::kUInt8, .postscale = -1.0}, {1, 1}), 0);
  const ReduceSpec wide{.dtype = DType::kInt64, .postscale = 1e30};
  EXPECT_EQ(ReducedOne<std::int64_t>(wide, {1, 1}), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(ReducedOne<std::int64_t>(wide, {-1, 0}), std::numeric_limits<std::int64_t>::min());
  const ReduceSpec nan{.dtype = DType::kInt32,
                       .postscale = std::numeric_limits<double>::quiet_NaN()};
  EXPECT_EQ(ReducedOne<std::int32_t>(nan, {1, 1}), 0);
}

TEST(Reduce, TreatsBoolAsTruth) {
  const std::vector<std::vector<std::uint8_t>> ranks = {{0, 0, 1, 2}, {0, 1, 1, 255}};
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax}) {
    EXPECT_EQ(Reduced(ReduceSpec{.dtype = DType::kBool, .op = op}, ranks),
              (std::vector<std::uint8_t>{0, 1, 1, 1}));
  }
  for (const ReduceOp op : {ReduceOp::kMin, ReduceOp::kProduct}) {
    EXPECT_EQ(Reduced(ReduceSpec{.dtype = DType::kBool, .op = op}, ranks),
              (std::vector<std::uint8_t>{0, 0, 1, 1}));
  }
}

TEST(Reduce, AddsComplexNumbersByComponent) {
  using Complex = std::complex<float>;
  const ReduceSpec sum{.dtype = DType::kComplex64};
  EXPECT_EQ(ReducedOne<Complex>(sum, {{1, 2}, {-3, 4}, {0.5f, -6}}), (Complex{-1.5f, 0}));
  const ReduceSpec mean{.dtype = DType::kComplex128, .op = ReduceOp::kAverage, .divisor = 2};
  using Wide = std::complex<double>;
  EXPECT_EQ(Reduced<Wide>(mean, {{{1, 2}, {8, 0}}, {{3, -4}, {0, 8}}}),
            (std::vector<Wide>{{2, -1}, {4, 4}}));
}

TEST(Reduce, RoundsEightBitFloatsOnce) {
  const ReduceSpec sum{.dtype = DType::kFloat8E4M3FN};
  const std::uint8_t sixteen = 0x58, one = 0x38, large = 0x7E;
  // Next to 16 the step is 2: 17 is a middle and goes to even, 18 is there.
  EXPECT_EQ(ReducedOne<std::uint8_t>(sum, {sixteen, one}), sixteen);
  EXPECT_EQ(ReducedOne<std::uint8_t>(sum, {sixteen, one, one}), sixteen + 1);
  // 448 is the largest; the sum leaves the range, the average does not.
  EXPECT_EQ(ReducedOne<std::uint8_t>(sum, {large, large}), large);
  const ReduceSpec mean{.dtype = DType::kFloat8E5M2, .op = ReduceOp::kAverage, .divisor = 2};
  EXPECT_EQ(ReducedOne<std::uint8_t>(mean, {0x7B, 0x7B}), 0x7B);
  EXPECT_EQ(ReducedOne<std::uint8_t>({.dtype = DType::kFloat8E5M2}, {0x7B, 0x7B}), 0x7C);
}

TEST(Reduce, CopiesASingleSource) {
  const std::vector<float> source = {1.5f, -2.5f, 3.5f};
  std::vector<float> first(3);
  std::vector<float> second(3);
  const auto* const from = reinterpret_cast<const std::byte*>(source.data());
  std::byte* const to[] = {reinterpret_cast<std::byte*>(first.data()),
                           reinterpret_cast<std::byte*>(second.data())};
  Reduce({}, {&from, 1}, to, source.size());
  EXPECT_EQ(first, source);
  EXPECT_EQ(second, source);
  Reduce({.postscale = 2.0}, {&from, 1}, to, source.size());
  EXPECT_EQ(second, (std::vector<float>{3.0f, -5.0f, 7.0f}));
}

TEST(Reduce, RefusesWhatHasNoSum) {
  float x = 0;
  const auto* const from = reinterpret_cast<const std::byte*>(&x);
  std::byte* const to = reinterpret_cast<std::byte*>(&x);
  EXPECT_THROW(Reduce({.dtype = DType::kFloat8E8M0FNU}, {&from, 1}, {&to, 1}, 0), InvariantError);
  EXPECT_THROW(Reduce({.dtype = DType::kComplex64, .op = ReduceOp::kMax}, {&from, 1}, {&to, 1}, 0),
               InvariantError);
  EXPECT_THROW(Reduce({}, {}, {&to, 1}, 1), InvariantError);
  EXPECT_THROW(Reduce({.dtype = DType::kBool, .op = ReduceOp::kAverage}, {&from, 1}, {&to, 1}, 1),
               InvariantError);
}

}  // namespace
}  // namespace hora
