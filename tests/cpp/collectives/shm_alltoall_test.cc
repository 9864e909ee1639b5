#include "collectives/shm_group.h"

namespace hora {
namespace {

constexpr std::size_t kWindow = 1024;

using Matrix = std::vector<std::uint64_t>;  // bytes from rank s to rank d, at s · size + d

Bytes Contents(std::uint64_t bytes, int from, int to, std::uint64_t seed) {
  return RandomBytes(bytes, seed * 4096 + static_cast<std::uint64_t>(from * 64 + to));
}

void ExpectAlltoall(ShmGroup& group, const Matrix& matrix, int pieces, std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << testing::PrintToString(matrix) << ", seed " << seed);
  const int size = group.size();
  group.RunOk([&](int rank, ShmBackend& backend) {
    std::vector<Pieces> inputs, outputs;
    for (int other = 0; other < size; ++other) {
      inputs.emplace_back(Contents(matrix[rank * size + other], rank, other, seed), pieces, 1,
                          seed);
      outputs.emplace_back(Bytes(matrix[other * size + rank]), pieces, 1, seed + 1);
    }
    CollectiveCall call = AlltoallCall(matrix, StreamsOf(inputs), StreamsOf(outputs));
    Status status = backend.Execute(call);
    for (int other = 0; other < size; ++other) {
      EXPECT_TRUE(outputs[other].Contents() ==
                  Contents(matrix[other * size + rank], other, rank, seed))
          << "rank " << rank << " has wrong bytes of " << other;
    }
    return status;
  });
}

class ShmAlltoall : public testing::TestWithParam<int> {
 protected:
  int size() const { return GetParam(); }
  Matrix All(std::uint64_t bytes) const { return Matrix(size() * size(), bytes); }
};

TEST_P(ShmAlltoall, MovesEvenParts) {
  ShmGroup group(size(), kWindow);
  for (const std::uint64_t bytes :
       {std::size_t{0}, std::size_t{1}, std::size_t{64}, kWindow - 1, kWindow, 5 * kWindow + 3}) {
    ExpectAlltoall(group, All(bytes), 1, bytes);
    ExpectAlltoall(group, All(bytes), 13, bytes + 1);
  }
}

TEST_P(ShmAlltoall, MovesRandomPartsWhateverTheChunk) {
  ShmGroup group(size(), kWindow);
  Random random(8);
  std::uint64_t seed = 100;
  for (const std::uint64_t chunk : {0, 1, 64, 200, 512, 1 << 20}) {
    group.Retune({.chunk_bytes = chunk});
    for (int round = 0; round < 10; ++round) {
      Matrix matrix = All(0);
      for (auto& bytes : matrix) {
        const std::size_t around[] = {0, 0, 1, 63, kWindow, 4 * kWindow + 1, random() % 3000};
        bytes = around[random() % std::size(around)];
      }
      ExpectAlltoall(group, matrix, 1 + static_cast<int>(random() % 90), ++seed);
    }
  }
}

TEST_P(ShmAlltoall, MovesWhatOneRankSendsOrReceives) {
  ShmGroup group(size(), kWindow);
  for (int one = 0; one < size(); ++one) {
    Matrix sends = All(0), receives = All(0), alone = All(0);
    for (int other = 0; other < size(); ++other) {
      sends[one * size() + other] = 3 * kWindow + 5;
      receives[other * size() + one] = 3 * kWindow + 5;
    }
    alone[one * size() + (one + 1) % size()] = 9 * kWindow + 1;
    ExpectAlltoall(group, sends, 2, 200 + one);
    ExpectAlltoall(group, receives, 2, 300 + one);
    ExpectAlltoall(group, alone, 1, 400 + one);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmAlltoall, testing::Values(1, 2, 3, 4, 7),
                         testing::PrintToStringParamName());

TEST(ShmAlltoallSteps, AreAsFewAsTheRankThatSendsMostNeeds) {
  ShmGroup group(3, kWindow);
  //                       own part            to one rank only
  ExpectAlltoall(group, {99 * kWindow, 0, 0, 7 * kWindow, 0, 0, 0, 2 * kWindow, 0}, 1, 1);
  EXPECT_EQ(group.board().flags(1).lane(Lane::kBulk).copied.load(), 7u);
}

}  // namespace
}  // namespace hora
