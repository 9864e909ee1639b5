#include "hora/control/framing.h"

#include <random>

#include "gtest/gtest.h"

#include "control/allocation_count.h"

namespace hora {
namespace {

using Bytes = std::vector<std::byte>;

Bytes Sample(std::size_t size, unsigned seed) {
  std::minstd_rand random(seed + 1);
  Bytes bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// A stream that gives so many bytes at once, and then nothing for once.
class Source {
 public:
  explicit Source(std::size_t at_once) : at_once_(at_once) {}

  void Append(const Bytes& frame) {
    AppendRaw(PrefixOf(frame));
    AppendRaw(frame);
  }
  void AppendRaw(std::span<const std::byte> bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }

  std::size_t operator()(std::span<std::byte> to) const {
    pauses_ = !pauses_;
    largest_ = std::max(largest_, to.size());
    const std::size_t given = pauses_ ? 0 : std::min({at_once_, to.size(), bytes_.size() - at_});
    std::copy_n(bytes_.data() + at_, given, to.data());
    at_ += given;
    return given;
  }

  bool done() const { return at_ == bytes_.size(); }
  std::size_t largest() const { return largest_; }  // that it was asked for

 private:
  const std::size_t at_once_;
  Bytes bytes_;
  mutable std::size_t at_ = 0;
  mutable std::size_t largest_ = 0;
  mutable bool pauses_ = true;
};

TEST(FrameReader, PutsTogetherWhatComesInPieces) {
  const std::size_t sizes[] = {0, 1, 5, 3000, 0, 200'001, 7};
  for (const std::size_t at_once : {1u, 3u, 4096u, 1u << 20}) {
    Source source(at_once);
    for (const std::size_t size : sizes) source.Append(Sample(size, 1));
    FrameReader reader(1);
    Bytes frame;
    for (const std::size_t size : sizes) {
      Status status;
      while (status.ok() && !reader.Receive(source, frame, status)) continue;
      ASSERT_EQ(status, Status::Ok());
      ASSERT_EQ(frame, Sample(size, 1)) << size << " bytes, " << at_once << " at once";
    }
    EXPECT_TRUE(source.done());
    Status status;
    EXPECT_FALSE(reader.Receive(source, frame, status));
  }
}

TEST(FrameReader, BelievesALengthOnlyAsFarAsItsBytesHaveCome) {
  Source source(1 << 20);
  const auto length = static_cast<std::uint32_t>(kMaxFrameBytes);
  source.AppendRaw(std::as_bytes(std::span(&length, 1)));
  source.AppendRaw(Sample(1000, 1));
  FrameReader reader(1);
  Bytes frame;
  Status status;
  while (!source.done()) ASSERT_FALSE(reader.Receive(source, frame, status));
  EXPECT_FALSE(reader.Receive(source, frame, status));
  EXPECT_EQ(status, Status::Ok());
  EXPECT_LE(source.largest(), 64u << 10);
}

TEST(FrameReader, AnImpossibleLengthNamesWhoSentIt) {
  Source source(4);
  const std::uint32_t length = kMaxFrameBytes + 1;
  source.AppendRaw(std::as_bytes(std::span(&length, 1)));
  FrameReader reader(7);
  Bytes frame;
  for (int again = 0; again < 3; ++again) {
    Status status;
    while (status.ok()) ASSERT_FALSE(reader.Receive(source, frame, status));
    EXPECT_EQ(status, Status(StatusCode::kInternal,
                             "rank 7 sent a control message of 67108865 bytes; at most "
                             "67108864 are allowed"));
  }
}

TEST(UnsentBytes, GivesBackInOrderWhatItWasGiven) {
  const Bytes all = Sample(100'000, 3);
  const std::span<const std::byte> stream(all);
  UnsentBytes unsent;
  std::minstd_rand random(5);
  std::size_t kept = 0, sent = 0;
  while (sent < stream.size()) {
    const std::size_t more = std::min<std::size_t>(random() % 700, stream.size() - kept);
    unsent.Keep(stream.subspan(kept, more));
    kept += more;
    const std::size_t gone = std::min<std::size_t>(random() % 700, kept - sent);
    ASSERT_TRUE(std::ranges::equal(unsent.bytes(), stream.subspan(sent, kept - sent)));
    unsent.Drop(gone);
    sent += gone;
    ASSERT_EQ(unsent.empty(), sent == kept);
  }
  unsent.Keep(stream.first(10));
  unsent.Clear();
  EXPECT_TRUE(unsent.empty());
  EXPECT_TRUE(unsent.bytes().empty());
}

TEST(Framing, SteadyStateDoesNotAllocate) {
  const Bytes small = Sample(300, 1), large = Sample(200'000, 2);
  UnsentBytes unsent;
  FrameReader reader(1);
  Bytes frame;
  const auto read = [&](std::span<std::byte> to) {
    const std::size_t given = std::min(to.size(), unsent.bytes().size());
    std::copy_n(unsent.bytes().data(), given, to.data());
    unsent.Drop(given);
    return given;
  };
  std::uint64_t before = 0;
  for (int round = 0; round < 20; ++round) {
    if (round == 10) before = AllocationCount();
    for (const Bytes* each : {&small, &large}) {
      unsent.Keep(PrefixOf(*each));
      unsent.Keep(*each);
      Status status;
      ASSERT_TRUE(reader.Receive(read, frame, status) && frame == *each);
    }
  }
  EXPECT_EQ(AllocationCount(), before);
}

TEST(Framing, WhatTheNeighbourWouldRefuseIsNotSent) {
  const Bytes frame(kMaxFrameBytes + 1);
  EXPECT_EQ(CheckFrame(frame, 3),
            Status(StatusCode::kResource,
                   "a control message of 67108865 bytes to rank 3 is too large; at most 67108864 "
                   "are allowed"));
  EXPECT_EQ(CheckFrame(std::span(frame).first(kMaxFrameBytes), 3), Status::Ok());
}

}  // namespace
}  // namespace hora
