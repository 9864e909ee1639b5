#include "collectives/shm_group.h"

namespace hora {
namespace {

constexpr std::size_t kWindow = 1024;

class ShmMoves : public testing::TestWithParam<int> {};

void ExpectAllgather(ShmGroup& group, const std::vector<std::size_t>& sizes, int pieces,
                     bool in_place, std::uint64_t seed) {
  std::vector<Bytes> inputs;
  for (std::size_t q = 0; q < sizes.size(); ++q) {
    inputs.push_back(RandomBytes(sizes[q], seed * 64 + q));
  }
  group.RunOk([&](int rank, ShmBackend& backend) {
    Pieces in(inputs[rank], pieces, 1, seed);
    std::vector<Pieces> outputs;
    std::vector<ByteStream> streams;
    for (std::size_t q = 0; q < sizes.size(); ++q) {
      outputs.emplace_back(Bytes(sizes[q]), pieces, 1, seed + q);
      if (in_place && static_cast<int>(q) == rank) outputs.back() = in;
    }
    for (auto& output : outputs) streams.push_back(output.Stream());
    CollectiveCall call =
        AllgatherCall(in_place ? outputs[rank].Stream() : in.Stream(), std::move(streams));
    Status status = backend.Execute(call);
    for (std::size_t q = 0; q < sizes.size(); ++q) {
      EXPECT_TRUE(outputs[q].Contents() == inputs[q])
          << "rank " << rank << " has wrong bytes of " << q;
    }
    return status;
  });
}

TEST_P(ShmMoves, GathersUnevenParts) {
  ShmGroup group(GetParam(), kWindow);
  Random random(11);
  for (int round = 0; round < 40; ++round) {
    std::vector<std::size_t> sizes(group.size());
    for (auto& bytes : sizes) {
      const std::size_t around[] = {0,
                                    1,
                                    63,
                                    kWindow - 1,
                                    kWindow,
                                    kWindow + 1,
                                    4 * kWindow,
                                    9 * kWindow + 5,
                                    random() % 3000};
      bytes = around[random() % std::size(around)];
    }
    ExpectAllgather(group, sizes, 1 + random() % 200, round % 2 == 0, round);
  }
}

TEST_P(ShmMoves, GathersAFewBytesThroughLines) {
  ShmGroup group(GetParam(), kWindow);
  for (std::size_t longest = 1; longest <= kLineBytes + 1; longest += 8) {
    std::vector<std::size_t> sizes(group.size(), longest);
    for (std::size_t rank = 1; rank < sizes.size(); ++rank) sizes[rank] = longest * rank % 57;
    ExpectAllgather(group, sizes, 1 + longest % 5, longest % 2 == 0, longest);
  }
}

TEST_P(ShmMoves, GathersWhenOneRankHasEverything) {
  ShmGroup group(GetParam(), kWindow);
  for (int owner = 0; owner < group.size(); ++owner) {
    std::vector<std::size_t> sizes(group.size(), 0);
    ExpectAllgather(group, sizes, 1, false, 1);
    sizes[owner] = 17 * kWindow + 3;
    ExpectAllgather(group, sizes, 3, false, 2);
  }
}

void ExpectBroadcast(ShmGroup& group, int root, std::size_t bytes, int pieces, bool in_place,
                     std::uint64_t seed) {
  const Bytes contents = RandomBytes(bytes, seed);
  group.RunOk([&](int rank, ShmBackend& backend) {
    Pieces in(contents, pieces, 1, seed);
    Pieces out(Bytes(bytes), pieces, 1, seed + 1);
    const bool is_root = rank == root;
    // Others hand in nothing at all: their input is never looked at.
    CollectiveCall call = BroadcastCall(root, group.size(), is_root ? in.Stream() : ByteStream(),
                                        is_root && in_place ? in.Stream() : out.Stream());
    Status status = backend.Execute(call);
    EXPECT_TRUE((is_root && in_place ? in : out).Contents() == contents) << "rank " << rank;
    return status;
  });
}

TEST_P(ShmMoves, BroadcastsFromEveryRoot) {
  ShmGroup group(GetParam(), kWindow);
  std::uint64_t seed = 0;
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{1}, std::size_t{65}, kWindow - 1, kWindow, kWindow + 1,
        4 * kWindow, 5 * kWindow + 1, 23 * kWindow + 7}) {
    for (int root = 0; root < group.size(); ++root) {
      ExpectBroadcast(group, root, bytes, 1 + static_cast<int>(seed % 150), seed % 2 == 0, seed);
      ++seed;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmMoves, testing::Values(1, 2, 3, 4, 7),
                         testing::PrintToStringParamName());

// A stream of more than 2^31 bytes without that much memory: the same megabytes again and again,
// and an ending of its own.
TEST(ShmMovesFar, OffsetsAreBeyond31Bits) {
  constexpr std::size_t kRepeated = 64u << 20, kRepeats = 33;
  const Bytes ending = RandomBytes(5000, 1);
  ShmGroup group(2, 1u << 20);
  group.RunOk([&](int, ShmBackend& backend) {
    Bytes repeated(kRepeated);
    Bytes last = ending;
    std::vector<std::span<std::byte>> segments(kRepeats, repeated);
    segments.push_back(last);
    ByteStream in(segments);
    Bytes received(ending.size());
    segments.back() = received;
    ByteStream out(segments);
    EXPECT_GT(out.size(), std::size_t{1} << 31);
    CollectiveCall call = BroadcastCall(0, 2, in, out);
    Status status = backend.Execute(call);
    EXPECT_TRUE(received == ending);
    return status;
  });
}

}  // namespace
}  // namespace hora
