// The kernels' code, run block by block and thread by thread on the CPU.
#include "hora/cuda/plugin/copy_block.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "hora/cuda/device_runtime.h"
#include "hora/cuda/plugin/fill_block.h"
#include "hora/kernels/reduce.h"

namespace hora {
namespace {

// What a launch does. Threads of a block may come in any order: here backwards.
template <class Split, class Part>
void Launch(std::span<const PieceCopy> pieces, const Part& run) {
  const auto table = std::make_unique<PieceTable<kManyPieces>>();
  for (const PieceCopy& piece : pieces) {
    const std::uint64_t blocks =
        BlocksOf(Split::Of(piece.from, piece.to, piece.elements), Split::kPerBlock);
    ASSERT_TRUE(table->Add(piece.from, piece.to, piece.elements, blocks));
  }
  for (std::uint32_t block = 0; block < table->blocks; ++block) {
    for (std::uint32_t thread = kThreadsPerBlock; thread-- > 0;) {
      run(PartOf<Split>(*table, block, thread));
    }
  }
}

class CopyBlockTest : public testing::Test {
 protected:
  std::vector<std::byte> Bytes(std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
    return bytes;
  }

  // All finite: what becomes of NaNs is tested by value.
  template <class Element>
  std::vector<std::byte> Elements(std::size_t count) {
    using Stored = typename Element::Stored;
    std::vector<std::byte> bytes(count * sizeof(Stored));
    std::normal_distribution<float> normal(0.0f, 100.0f);
    for (std::size_t i = 0; i < count; ++i) {
      const Stored stored = Element::Narrow(static_cast<typename Element::Wide>(normal(random_)));
      std::memcpy(&bytes[i * sizeof(Stored)], &stored, sizeof(Stored));
    }
    return bytes;
  }

  // `operation` over pieces of awkward sizes at awkward addresses against one element at a time.
  template <class Operation>
  void CheckTransform(const Operation& operation, const std::vector<std::byte>& source) {
    using From = typename Operation::From;
    using To = typename Operation::To;
    const std::size_t elements = source.size() / sizeof(From);
    std::vector<std::byte> expected(elements * sizeof(To));
    for (std::size_t i = 0; i < elements; ++i) {
      From x;
      std::memcpy(&x, &source[i * sizeof(From)], sizeof(From));
      const To y = operation(x);
      std::memcpy(&expected[i * sizeof(To)], &y, sizeof(To));
    }
    constexpr std::size_t kMargin = 32;
    for (std::size_t shift = 0; shift < 18; ++shift) {
      std::vector<std::byte> from(source.size() + kMargin), to(expected.size() + kMargin);
      std::byte* const input = from.data() + shift * sizeof(From) % 17;
      std::byte* const output = to.data() + shift * sizeof(To) % 19;
      std::memcpy(input, source.data(), source.size());
      std::vector<PieceCopy> pieces;
      std::size_t at = 0;
      for (const std::size_t count :
           {std::size_t{1}, std::size_t{7}, std::size_t{30}, std::size_t{5000}, elements - 5038}) {
        pieces.push_back({input + at * sizeof(From), output + at * sizeof(To), count});
        at += count;
      }
      Launch<ElementSplit<Operation>>(
          pieces, [&](const ThreadPart& part) { TransformPart(operation, part); });
      ASSERT_EQ(std::memcmp(output, expected.data(), expected.size()), 0) << shift;
      const auto untouched = [](std::byte byte) { return byte == std::byte{0}; };
      ASSERT_TRUE(std::all_of(to.data(), output, untouched));
      ASSERT_TRUE(std::all_of(output + expected.size(), to.data() + to.size(), untouched));
    }
  }

  // One element at a time is what a reduction of one source is.
  template <class Operation>
  void CheckAgainstReduce(DType dtype, const std::vector<std::byte>& source) {
    for (const double scale : {1.0, 0.37, -3.0, 1e30}) {
      for (const int divisor : {1, 3, 8}) {
        const Operation operation(scale, divisor);
        const std::size_t count = source.size() / SizeOf(dtype);
        std::vector<std::byte> expected(source.size()), result(source.size());
        const std::byte* const from = source.data();
        std::byte* const to = expected.data();
        Reduce({.dtype = dtype,
                .op = divisor == 1 ? ReduceOp::kSum : ReduceOp::kAverage,
                .prescale = scale,
                .divisor = divisor},
               {&from, 1}, {&to, 1}, count);
        using Stored = typename Operation::From;
        for (std::size_t i = 0; i < count; ++i) {
          Stored x;
          std::memcpy(&x, &source[i * sizeof(Stored)], sizeof(Stored));
          if (scale != 1.0 || divisor != 1) x = operation(x);
          std::memcpy(&result[i * sizeof(Stored)], &x, sizeof(Stored));
        }
        ASSERT_EQ(result, expected) << ToString(dtype) << " · " << scale << " / " << divisor;
      }
    }
  }

  std::mt19937 random_{42};
};

TEST_F(CopyBlockTest, BytesArriveWhereverTheyLie) {
  const std::vector<std::byte> source = Bytes(70'000);
  for (std::size_t shifts = 0; shifts < 256; shifts += 5) {
    std::vector<std::byte> to(source.size() + 64);
    const std::byte* const from = source.data() + shifts % 16;
    std::byte* const output = to.data() + shifts / 16;
    std::vector<PieceCopy> pieces;
    std::size_t at = 0;
    for (const std::size_t bytes : {1u, 2u, 15u, 33u, 4096u, 16384u, 49'000u}) {
      pieces.push_back({from + at, output + at, bytes});
      at += bytes;
    }
    Launch<ByteSplit>(pieces, [](const ThreadPart& part) { CopyPart(part); });
    ASSERT_EQ(std::memcmp(output, from, at), 0) << shifts;
    for (std::size_t i = at; output + i < to.data() + to.size(); ++i) {
      ASSERT_EQ(output[i], std::byte{0});
    }
  }
}

TEST_F(CopyBlockTest, CastsArriveWhereverTheyLie) {
  CheckTransform(CastElement<Float32Element, Float16Element>(0.5, 3),
                 Elements<Float32Element>(12'000));
  CheckTransform(CastElement<Float16Element, Float32Element>(1, 1),
                 Elements<Float16Element>(12'000));
  CheckTransform(CastElement<BFloat16Element, Float16Element>(1, 2),
                 Elements<BFloat16Element>(12'000));
  CheckTransform(CastElement<Float64Element, BFloat16Element>(1, 1),
                 Elements<Float64Element>(12'000));
  CheckTransform(CastElement<Float16Element, Float64Element>(7, 1),
                 Elements<Float16Element>(12'000));
  CheckTransform(ScaleElement<Float64Element>(7, 3), Elements<Float64Element>(12'000));
  CheckTransform(ScaleInteger<std::int8_t>(0.5, 1), Bytes(20'000));
}

TEST_F(CopyBlockTest, ScalesAsAReductionOfOneSourceDoes) {
  // Random bits: NaNs, infinities and subnormals are among them.
  const std::vector<std::byte> bits = Bytes(16'000);
  CheckAgainstReduce<ScaleElement<Float16Element>>(DType::kFloat16, bits);
  CheckAgainstReduce<ScaleElement<BFloat16Element>>(DType::kBFloat16, bits);
  CheckAgainstReduce<ScaleElement<Float32Element>>(DType::kFloat32, bits);
  CheckAgainstReduce<ScaleElement<Float64Element>>(DType::kFloat64, bits);
  CheckAgainstReduce<ScaleElement<Float8Element<kE4M3FN>>>(DType::kFloat8E4M3FN, bits);
  CheckAgainstReduce<ScaleElement<Float8Element<kE5M2FNUZ>>>(DType::kFloat8E5M2FNUZ, bits);
  CheckAgainstReduce<ScaleInteger<std::uint8_t>>(DType::kUInt8, bits);
  CheckAgainstReduce<ScaleInteger<std::int8_t>>(DType::kInt8, bits);
  CheckAgainstReduce<ScaleInteger<std::uint16_t>>(DType::kUInt16, bits);
  CheckAgainstReduce<ScaleInteger<std::int16_t>>(DType::kInt16, bits);
  CheckAgainstReduce<ScaleInteger<std::uint32_t>>(DType::kUInt32, bits);
  CheckAgainstReduce<ScaleInteger<std::int32_t>>(DType::kInt32, bits);
  CheckAgainstReduce<ScaleInteger<std::uint64_t>>(DType::kUInt64, bits);
  CheckAgainstReduce<ScaleInteger<std::int64_t>>(DType::kInt64, bits);
}

TEST_F(CopyBlockTest, NotANumberStaysOneInEveryCast) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ((CastElement<Float32Element, Float16Element>(2, 1)(nan)), 0x7E00);
  EXPECT_EQ((CastElement<Float32Element, BFloat16Element>(2, 1)(-nan)), 0x7FC0);
  EXPECT_TRUE(std::isnan(CastElement<Float16Element, Float64Element>(1, 1)(0xFE01)));
  EXPECT_EQ((CastElement<Float32Element, Float16Element>(1, 1)(1e6f)), 0x7C00);
}

TEST_F(CopyBlockTest, FillsAnyAddressWithAnElement) {
  for (const std::size_t element_bytes : {1u, 2u, 4u, 8u, 16u}) {
    const std::vector<std::byte> element = Bytes(element_bytes);
    for (std::size_t shift = 0; shift < 16; ++shift) {
      for (const std::size_t count : {1u, 3u, 1000u, 5000u}) {
        const std::size_t bytes = count * element_bytes;
        std::vector<std::byte> memory(bytes + 48);
        std::byte* const to = memory.data() + shift;
        const FillPattern pattern = PatternOf(to, element.data(), element_bytes);
        for (std::uint32_t block = 0; block < FillBlocks(to, bytes); ++block) {
          for (std::uint32_t thread = 0; thread < kThreadsPerBlock; ++thread) {
            FillPart(to, bytes, pattern, block, thread);
          }
        }
        for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(to[i], element[i % element_bytes]);
        for (std::byte* rest = to + bytes; rest < memory.data() + memory.size(); ++rest) {
          ASSERT_EQ(*rest, std::byte{0});
        }
      }
    }
  }
}

}  // namespace
}  // namespace hora
