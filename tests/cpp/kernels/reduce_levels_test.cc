// Every CPU level gives the bits that the contract demands: all dtypes × operations × scales, at
// odd counts and addresses, in place and not, with the special values of each type.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "hora/kernels/cpu_features.h"
#include "hora/kernels/reduce.h"
#include "kernels/reference_reduce.h"

namespace hora {
namespace {

constexpr std::size_t kMaxCount = 1100;

struct Scales {
  double prescale;
  double postscale;
};
constexpr Scales kScales[] = {{1.0, 1.0}, {0.3, 1.0}, {1.0, -1.0 / 7}, {2.5, 0.4}};
constexpr std::size_t kCounts[] = {0, 1, 3, 16, 31, 65, 127, 260, 1031};

enum class Aliasing : std::uint8_t { kNone, kFirst, kAll };

// Bit patterns with many of the values that go wrong: NaNs of either kind and sign, infinities,
// subnormals, both zeros, the ends of the ranges.
std::uint64_t Pattern(DType dtype, std::mt19937_64& random) {
  const std::uint64_t bits = random();
  const bool special = random() % 4 == 0;
  const auto pick = [&](std::initializer_list<std::uint64_t> from) {
    return *(from.begin() + random() % from.size());
  };
  switch (dtype) {
    case DType::kFloat32:
      if (special) {
        return pick({0x7FC00000, 0xFFC00123, 0x7F800001, 0xFFA00000, 0x7F800000, 0xFF800000, 1,
                     0x80000001, 0x007FFFFF, 0, 0x80000000, 0x7F7FFFFF, 0xFF7FFFFF});
      }
      return 0x3F000000 ^ (bits & 0x81FFFFFF);
    case DType::kFloat64:
      if (special) {
        return pick({0x7FF8000000000000, 0xFFF8000000000123, 0x7FF0000000000001, 0x7FF0000000000000,
                     0xFFF0000000000000, 1, 0x8000000000000001, 0, 0x8000000000000000,
                     0x7FEFFFFFFFFFFFFF});
      }
      return 0x3FE0000000000000 ^ (bits & 0x801FFFFFFFFFFFFF);
    case DType::kFloat16:
      if (special) {
        return pick({0x7E00, 0xFE01, 0x7C01, 0x7C00, 0xFC00, 1, 0x8001, 0x03FF, 0, 0x8000, 0x7BFF});
      }
      return bits;
    case DType::kBFloat16:
      if (special) {
        return pick({0x7FC0, 0xFFC1, 0x7F81, 0x7F80, 0xFF80, 1, 0x8001, 0x007F, 0, 0x8000, 0x7F7F});
      }
      return 0x3F00 ^ (bits & 0x81FF);
    case DType::kBool:
      return pick({0, 0, 1, 1, 2, 255});
    default:
      return special ? pick({0, 1, ~0ull, 1ull << 63, 0x7F, 0x80, 0x7FFF, 0x8000}) : bits;
  }
}

std::vector<std::byte> RandomBytes(DType dtype, std::uint64_t seed, std::size_t count = kMaxCount) {
  if (dtype == DType::kComplex64) return RandomBytes(DType::kFloat32, seed, 2 * count);
  if (dtype == DType::kComplex128) return RandomBytes(DType::kFloat64, seed, 2 * count);
  std::mt19937_64 random(seed);
  const std::size_t size = SizeOf(dtype);
  std::vector<std::byte> bytes(count * size + 64);
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t bits = Pattern(dtype, random);
    std::memcpy(bytes.data() + i * size, &bits, size);
  }
  return bytes;
}

class ReduceLevels : public testing::TestWithParam<std::tuple<CpuLevel, DType>> {
 protected:
  void SetUp() override {
    SetCpuLevel(level());
    if (ActiveCpuLevel() != level()) GTEST_SKIP() << "this CPU has no " << ToString(level());
    for (std::uint64_t rank = 0; rank < kMaxRanks; ++rank) {
      inputs_.push_back(RandomBytes(dtype(), 100 * rank + 7));
    }
  }
  void TearDown() override { SetCpuLevel(DetectedCpuLevel()); }

  static CpuLevel level() { return std::get<0>(GetParam()); }
  static DType dtype() { return std::get<1>(GetParam()); }

  // Reduces `count` elements of `ranks` operands that start `shift` bytes off alignment.
  void Expect(const ReduceSpec& spec, std::size_t ranks, std::size_t count, std::size_t shift,
              Aliasing aliasing) {
    const std::size_t bytes = count * SizeOf(dtype());
    // Rank r is shifted r times as much, so that no two operands are aligned alike.
    std::vector<std::vector<std::byte>> memory(2 * ranks, std::vector<std::byte>(bytes + 256));
    std::vector<const std::byte*> sources;
    std::vector<std::byte*> destinations;
    for (std::size_t rank = 0; rank < ranks; ++rank) {
      std::byte* const source = memory[rank].data() + shift * (rank + 1);
      std::memcpy(source, inputs_[rank].data(), bytes);
      sources.push_back(source);
      const bool in_place =
          aliasing == Aliasing::kAll || (aliasing == Aliasing::kFirst && rank == 0);
      destinations.push_back(in_place ? source : memory[ranks + rank].data() + shift);
    }
    const std::vector<std::byte> expected = ReferenceReduce(spec, sources, count);
    const auto before = memory;
    Reduce(spec, sources, destinations, count);

    for (std::size_t rank = 0; rank < ranks; ++rank) {
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), destinations[rank]))
          << Describe(spec, ranks, count, shift) << FirstDifference(expected, destinations[rank]);
      const std::byte* const end = destinations[rank] + bytes;
      const std::size_t owner = destinations[rank] == sources[rank] ? rank : ranks + rank;
      const auto after_end = static_cast<std::size_t>(end - memory[owner].data());
      ASSERT_TRUE(std::equal(memory[owner].begin() + static_cast<std::ptrdiff_t>(after_end),
                             memory[owner].end(),
                             before[owner].begin() + static_cast<std::ptrdiff_t>(after_end)))
          << Describe(spec, ranks, count, shift) << " wrote past the end";
    }
  }

 private:
  static std::string Describe(const ReduceSpec& spec, std::size_t ranks, std::size_t count,
                              std::size_t shift) {
    return std::string(ToString(spec.op)) + " of " + std::to_string(ranks) + " × " +
           std::to_string(count) + ", prescale " + std::to_string(spec.prescale) + ", postscale " +
           std::to_string(spec.postscale) + ", shift " + std::to_string(shift);
  }

  static std::string FirstDifference(const std::vector<std::byte>& expected, const std::byte* got) {
    const std::size_t size = SizeOf(dtype());
    for (std::size_t i = 0; i < expected.size(); i += size) {
      if (std::memcmp(&expected[i], got + i, size) == 0) continue;
      std::uint64_t wanted = 0;
      std::uint64_t actual = 0;
      std::memcpy(&wanted, &expected[i], std::min(size, sizeof(wanted)));
      std::memcpy(&actual, got + i, std::min(size, sizeof(actual)));
      char text[96];
      std::snprintf(text, sizeof(text), "; element %zu is %#llx, not %#llx", i / size,
                    static_cast<unsigned long long>(actual),
                    static_cast<unsigned long long>(wanted));
      return text;
    }
    return "";
  }

 protected:
  static constexpr std::size_t kMaxRanks = 5;

 private:
  std::vector<std::vector<std::byte>> inputs_;
};

TEST_P(ReduceLevels, GiveTheBitsOfTheContract) {
  for (const ReduceOp op :
       {ReduceOp::kAverage, ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct}) {
    if (!IsReducible(dtype(), op)) continue;
    for (const Scales& scales : kScales) {
      for (std::size_t ranks = 1; ranks <= kMaxRanks; ++ranks) {
        const ReduceSpec spec{dtype(), op, scales.prescale, scales.postscale,
                              static_cast<int>(ranks)};
        for (const std::size_t count : kCounts) {
          const std::size_t shift = count % 4;  // with N ranks: byte offsets 0 … 15, odd ones too
          ASSERT_NO_FATAL_FAILURE(Expect(spec, ranks, count, shift, Aliasing::kAll));
        }
        ASSERT_NO_FATAL_FAILURE(Expect(spec, ranks, 203, 8, Aliasing::kNone));
        ASSERT_NO_FATAL_FAILURE(Expect(spec, ranks, 203, 8, Aliasing::kFirst));
      }
    }
  }
}

std::string NameOf(const testing::TestParamInfo<std::tuple<CpuLevel, DType>>& info) {
  return std::string(ToString(std::get<0>(info.param))) + "_" +
         std::string(ToString(std::get<1>(info.param)));
}

#if defined(__aarch64__)
const auto kLevels = testing::Values(CpuLevel::kScalar, CpuLevel::kNeon);
#else
const auto kLevels = testing::Values(CpuLevel::kScalar, CpuLevel::kAvx2, CpuLevel::kAvx512);
#endif

INSTANTIATE_TEST_SUITE_P(
    All, ReduceLevels,
    testing::Combine(kLevels, testing::Values(DType::kUInt8, DType::kInt8, DType::kUInt16,
                                              DType::kInt16, DType::kUInt32, DType::kInt32,
                                              DType::kUInt64, DType::kInt64, DType::kFloat16,
                                              DType::kBFloat16, DType::kFloat32, DType::kFloat64,
                                              DType::kBool, DType::kComplex64, DType::kComplex128,
                                              DType::kFloat8E4M3FN, DType::kFloat8E4M3FNUZ,
                                              DType::kFloat8E5M2, DType::kFloat8E5M2FNUZ)),
    NameOf);

}  // namespace
}  // namespace hora
