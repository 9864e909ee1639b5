#include "hora/shm/byte_ring.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

#include "hora/base/wait.h"

namespace hora {
namespace {

constexpr std::size_t kCapacity = 64;

class ByteRingTest : public ::testing::Test {
 protected:
  ByteRing View() { return ByteRing(state_, storage_); }

  ByteRingState state_{};
  std::array<std::byte, kCapacity> storage_{};
};

// The n-th byte of a stream that does not repeat with the capacity.
std::byte Pattern(std::uint64_t position) { return static_cast<std::byte>(position * 31 + 7); }

std::vector<std::byte> Stream(std::uint64_t from, std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = Pattern(from + i);
  return bytes;
}

TEST_F(ByteRingTest, EveryPairOfSizesKeepsTheStream) {
  ByteRing writer = View();
  ByteRing reader = View();
  std::uint64_t written = 0;
  std::uint64_t read = 0;
  for (std::size_t put = 0; put <= kCapacity + 2; ++put) {
    for (std::size_t get = 0; get <= kCapacity + 2; ++get) {
      const std::size_t room = kCapacity - (written - read);
      ASSERT_EQ(writer.Write(Stream(written, put)), std::min(put, room));
      written += std::min(put, room);
      std::vector<std::byte> got(get);
      const std::size_t given = reader.Read(got);
      ASSERT_EQ(given, std::min<std::size_t>(get, written - read));
      got.resize(given);
      ASSERT_EQ(got, Stream(read, given));
      read += given;
      ASSERT_EQ(reader.empty(), written == read);
      ASSERT_EQ(writer.full(), written - read == kCapacity);
    }
  }
}

TEST_F(ByteRingTest, WritesHeadAndBodyAsOnePiece) {
  ByteRing ring = View();
  const auto head = Stream(0, 4);
  EXPECT_EQ(ring.Write(head, Stream(4, 10)), 14u);
  std::vector<std::byte> got(20);
  ASSERT_EQ(ring.Read(got), 14u);
  got.resize(14);
  EXPECT_EQ(got, Stream(0, 14));
  EXPECT_EQ(ring.Write(Stream(0, 62)), 62u);
  EXPECT_EQ(ring.Write(head, Stream(4, 10)), 2u);
}

TEST_F(ByteRingTest, ReaderOfAFullRingKnowsThatTheWriterMayWait) {
  ByteRing ring = View();
  std::vector<std::byte> got(1);
  ring.Write(Stream(0, kCapacity - 1));
  ring.Read(got);
  EXPECT_FALSE(ring.writer_may_wait());
  ring.Write(Stream(0, 2));
  ring.Read(got);
  EXPECT_TRUE(ring.writer_may_wait());
  ring.Read(got);
  EXPECT_FALSE(ring.writer_may_wait());
}

TEST_F(ByteRingTest, ImpossiblePositionsBreakIt) {
  std::vector<std::byte> got(8);
  const struct {
    std::uint64_t written, read;
  } impossible[] = {{kCapacity + 1, 0}, {0, 1}, {0, ~std::uint64_t{0}}, {~std::uint64_t{0}, 3}};
  for (const auto& [written, read] : impossible) {
    state_.written = written;
    state_.read = read;
    ByteRing reader = View();
    EXPECT_EQ(reader.Read(got), 0u);
    EXPECT_TRUE(reader.broken()) << written << " " << read;
    ByteRing writer = View();
    EXPECT_EQ(writer.Write(got), 0u);
    EXPECT_TRUE(writer.broken()) << written << " " << read;
  }
}

TEST_F(ByteRingTest, PositionsThatGoBackBreakIt) {
  ByteRing ring = View();
  std::vector<std::byte> got(8);
  ring.Write(Stream(0, 20));
  ring.Read(got);
  state_.written = 12;  // still ahead of the reader
  EXPECT_EQ(ring.Read(got), 0u);
  EXPECT_TRUE(ring.broken());
  state_.written = 20;
  EXPECT_EQ(ring.Read(got), 0u) << "once broken, nothing is moved any more";
}

TEST_F(ByteRingTest, TwoThreadsKeepTheStream) {
  constexpr std::uint64_t kTotal = 100'000;
  const WaitPolicy policy = WaitPolicy::For(2, UsableCores());
  std::thread producer([&] {
    ByteRing ring = View();
    std::minstd_rand random(1);
    for (std::uint64_t sent = 0; sent < kTotal;) {
      const std::size_t most = std::min<std::uint64_t>(1 + random() % 90, kTotal - sent);
      sent += ring.Write(Stream(sent, most));
      if (ring.full()) SpinUntil(policy, [&] { return !ring.full(); });
    }
  });
  ByteRing ring = View();
  std::minstd_rand random(2);
  std::uint64_t wrong = 0;
  for (std::uint64_t received = 0; received < kTotal;) {
    std::vector<std::byte> got(1 + random() % 90);
    const std::size_t given = ring.Read(got);
    for (std::size_t i = 0; i < given; ++i) wrong += got[i] != Pattern(received + i) ? 1 : 0;
    received += given;
    if (given == 0) SpinUntil(policy, [&] { return !ring.empty(); });
  }
  producer.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_TRUE(ring.empty());
}

}  // namespace
}  // namespace hora
