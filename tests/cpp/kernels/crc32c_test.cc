#include "hora/kernels/crc32c.h"

#include <cstddef>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

#include "hora/kernels/cpu_features.h"

namespace hora {
namespace {

std::span<const std::byte> Bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::vector<std::byte> RandomBytes(std::size_t count) {
  std::mt19937 random(7);
  std::vector<std::byte> bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// One bit after the other, straight from the definition.
std::uint32_t BitByBit(std::span<const std::byte> bytes) {
  std::uint32_t state = 0xffffffff;
  for (const std::byte byte : bytes) {
    state ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ ((state & 1) != 0 ? 0x82f63b78u : 0u);
  }
  return ~state;
}

// Every test runs on the tables, on the instruction, and on the best that this CPU has.
class Crc32cTest : public testing::TestWithParam<CpuLevel> {
 protected:
  void SetUp() override { SetCpuLevel(GetParam()); }
  void TearDown() override { SetCpuLevel(DetectedCpuLevel()); }
};

TEST_P(Crc32cTest, GivesThePublishedValues) {
  EXPECT_EQ(Crc32c({}), 0u);
  EXPECT_EQ(Crc32c(Bytes("123456789")), 0xe3069283u);
  // RFC 3720, B.4.
  std::vector<std::byte> block(32, std::byte{0});
  EXPECT_EQ(Crc32c(block), 0x8a9136aau);
  block.assign(32, std::byte{0xff});
  EXPECT_EQ(Crc32c(block), 0x62a8ab43u);
  for (std::size_t i = 0; i < 32; ++i) block[i] = static_cast<std::byte>(i);
  EXPECT_EQ(Crc32c(block), 0x46dd794eu);
}

TEST_P(Crc32cTest, AgreesWithTheDefinitionAtEveryLengthAndAlignment) {
  const std::vector<std::byte> bytes = RandomBytes(40'000);
  for (std::size_t length = 0; length < 2000; ++length) {
    const auto part = std::span(bytes).subspan(length % 9, length);
    ASSERT_EQ(Crc32c(part), BitByBit(part)) << length;
  }
  for (const std::size_t length :
       {2'047u, 2'048u, 2'303u, 2'304u, 12'287u, 12'288u, 12'289u, 13'056u, 24'577u, 39'993u}) {
    const auto part = std::span(bytes).subspan(3, length);
    ASSERT_EQ(Crc32c(part), BitByBit(part)) << length;
  }
}

TEST_P(Crc32cTest, GoesOnWhereAnotherCallEnded) {
  const std::vector<std::byte> bytes = RandomBytes(30'000);
  const std::uint32_t whole = Crc32c(bytes);
  for (const std::size_t cut : {0u, 1u, 7u, 768u, 12'288u, 29'999u, 30'000u}) {
    const auto all = std::span<const std::byte>(bytes);
    EXPECT_EQ(Crc32c(all.subspan(cut), Crc32c(all.first(cut))), whole) << cut;
  }
}

std::string NameOf(const testing::TestParamInfo<CpuLevel>& level) {
  constexpr const char* kNames[] = {"Tables", "Instruction", "Best"};
  return kNames[level.index];
}
INSTANTIATE_TEST_SUITE_P(Levels, Crc32cTest,
                         testing::Values(CpuLevel::kScalar, CpuLevel::kAvx2, DetectedCpuLevel()),
                         NameOf);

}  // namespace
}  // namespace hora
