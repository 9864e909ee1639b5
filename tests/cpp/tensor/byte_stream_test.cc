#include "hora/tensor/byte_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "hora/base/check.h"

namespace hora {
namespace {

// Buffers of the given sizes, numbered through: stream byte i holds i modulo 251.
class Buffers {
 public:
  explicit Buffers(const std::vector<std::size_t>& sizes) {
    std::size_t next = 0;
    for (const std::size_t size : sizes) {
      std::vector<std::byte>& buffer = memory_.emplace_back(size);
      for (std::byte& byte : buffer) byte = static_cast<std::byte>(next++ % 251);
    }
  }

  ByteStream Stream() {
    std::vector<std::span<std::byte>> segments;
    for (std::vector<std::byte>& buffer : memory_) segments.emplace_back(buffer);
    return ByteStream(std::move(segments));
  }

  std::vector<std::byte> Flat() const {
    std::vector<std::byte> all;
    for (const auto& buffer : memory_) all.insert(all.end(), buffer.begin(), buffer.end());
    return all;
  }

 private:
  std::vector<std::vector<std::byte>> memory_;
};

std::vector<std::byte> Part(const std::vector<std::byte>& all, std::size_t offset,
                            std::size_t count) {
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(offset);
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

TEST(ByteStream, IsEmptyWithoutBytes) {
  ByteStream none;
  EXPECT_TRUE(none.empty());
  none.Gather(0, {});
  Buffers hollow({0, 0});
  ByteStream stream = hollow.Stream();
  EXPECT_TRUE(stream.empty());
  stream.Scatter(0, {});
}

TEST(ByteStream, GathersAcrossSegments) {
  Buffers buffers({3, 0, 5, 0, 0, 1, 7});
  ByteStream stream = buffers.Stream();
  ASSERT_EQ(stream.size(), 16u);
  for (std::size_t offset = 0; offset <= 16; ++offset) {
    for (std::size_t count = 0; offset + count <= 16; ++count) {
      std::vector<std::byte> got(count);
      stream.Gather(offset, got);
      EXPECT_EQ(got, Part(buffers.Flat(), offset, count)) << offset << " + " << count;
    }
  }
}

TEST(ByteStream, ScattersOverItsRangeOnly) {
  Buffers buffers({4, 2, 6});
  std::vector<std::byte> expected = buffers.Flat();
  const std::vector<std::byte> fresh(5, std::byte{0xEE});
  std::copy(fresh.begin(), fresh.end(), expected.begin() + 3);
  buffers.Stream().Scatter(3, fresh);
  EXPECT_EQ(buffers.Flat(), expected);
}

TEST(ByteStream, FollowsOffsetsInAnyOrder) {
  std::mt19937 random(7);
  Buffers buffers({17, 0, 1, 230, 64, 3, 0, 99});
  ByteStream stream = buffers.Stream();
  const std::vector<std::byte> flat = buffers.Flat();
  for (int round = 0; round < 2000; ++round) {
    const std::size_t offset = random() % flat.size();
    const std::size_t count = random() % (flat.size() - offset + 1);
    std::vector<std::byte> got(count);
    stream.Gather(offset, got);
    ASSERT_EQ(got, Part(flat, offset, count)) << "round " << round;
  }
}

TEST(ByteStream, VisitsPiecesInOrderAndNoEmptyOnes) {
  Buffers buffers({2, 0, 3, 4});
  ByteStream stream = buffers.Stream();
  std::vector<std::size_t> sizes;
  stream.ForEachPiece(1, 6, [&](std::span<std::byte> piece) { sizes.push_back(piece.size()); });
  EXPECT_EQ(sizes, (std::vector<std::size_t>{1, 3, 2}));
}

TEST(ByteStream, TellsHowFarItIsContiguous) {
  Buffers buffers({4, 0, 6, 1});
  ByteStream stream = buffers.Stream();
  EXPECT_EQ(stream.FirstPiece(5, 100).size(), 5u);
  EXPECT_EQ(stream.FirstPiece(5, 2).size(), 2u);
  EXPECT_EQ(stream.FirstPiece(1, 11).size(), 3u);
  EXPECT_EQ(*stream.FirstPiece(4, 1).data(), std::byte{4});
  EXPECT_THROW(stream.FirstPiece(11, 1), InvariantError);
}

TEST(ByteStream, RefusesToLeaveItsBytes) {
  Buffers buffers({2, 3});
  ByteStream stream = buffers.Stream();
  std::vector<std::byte> three(3);
  EXPECT_THROW(stream.Gather(3, three), InvariantError);
  EXPECT_THROW(stream.Gather(5, three), InvariantError);
  EXPECT_THROW(ByteStream().Gather(0, three), InvariantError);
}

}  // namespace
}  // namespace hora
