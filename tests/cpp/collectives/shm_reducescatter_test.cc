#include <numeric>

#include "collectives/operands.h"

namespace hora {
namespace {

// counts[d]: the elements that rank d receives.
void ExpectReducescatter(ShmGroup& group, const OpParams& params,
                         const std::vector<std::size_t>& counts, int pieces, std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << testing::PrintToString(counts) << " x "
                                  << ToString(params.dtype) << " " << ToString(params.reduce_op)
                                  << ", seed " << seed);
  const auto size = static_cast<std::size_t>(group.size());
  const std::size_t element = SizeOf(params.dtype);
  // operands[d][s]: what rank s brings for rank d.
  std::vector<std::vector<Bytes>> operands;
  for (std::size_t d = 0; d < size; ++d) {
    operands.push_back(RandomOperands(params.dtype, counts[d], group.size(), seed * 10 + d));
  }
  std::vector<Bytes> results(size);
  group.RunOk([&](int rank, ShmBackend& backend) {
    std::vector<Pieces> inputs;
    for (std::size_t d = 0; d < size; ++d) {
      inputs.emplace_back(operands[d][rank], pieces, element, seed + d);
    }
    Pieces output(Bytes(counts[rank] * element), pieces, element, seed + 77);
    CollectiveCall call = ReducescatterCall(params, StreamsOf(inputs), output.Stream());
    Status status = backend.Execute(call);
    results[rank] = output.Contents();
    for (std::size_t d = 0; d < size; ++d) {
      EXPECT_TRUE(inputs[d].Contents() == operands[d][rank]) << "the input changed";
    }
    return status;
  });
  for (std::size_t d = 0; d < size; ++d) {
    EXPECT_TRUE(results[d] == Expected(params, operands[d], group.size())) << "rank " << d;
  }
}

class ShmReducescatter : public testing::TestWithParam<int> {};

TEST_P(ShmReducescatter, HasTheBitsOfOneReductionWhateverTheChunk) {
  constexpr std::size_t kWindow = 4096;
  ShmGroup group(GetParam(), kWindow);
  Random random(4);
  std::uint64_t seed = 0;
  for (const std::uint64_t chunk : {0, 64, 1000, 2048, 1 << 20}) {
    group.Retune({.chunk_bytes = chunk});
    for (int round = 0; round < 8; ++round) {
      std::vector<std::size_t> counts(group.size());
      for (auto& count : counts) {
        const std::size_t around[] = {0, 1, 16, 17, kWindow / 4, random() % 5000, random() % 40};
        count = around[random() % std::size(around)];
      }
      ExpectReducescatter(group, Params(DType::kFloat32, ReduceOp::kSum), counts, 1 + random() % 60,
                          ++seed);
    }
  }
}

TEST_P(ShmReducescatter, SpreadsWhatDoesNotDivide) {
  ShmGroup group(GetParam(), 1024);
  for (const std::size_t rows : {0, 1, 5, 7, 64, 1000}) {
    std::vector<std::size_t> counts;
    for (int rank = 0; rank < group.size(); ++rank) {
      const bool one_more = static_cast<std::size_t>(rank) < rows % group.size();
      counts.push_back(3 * (rows / group.size() + (one_more ? 1 : 0)));
    }
    ExpectReducescatter(group, Params(DType::kFloat64, ReduceOp::kAverage), counts, 3, rows);
  }
}

TEST_P(ShmReducescatter, GivesEverythingToOneRank) {
  ShmGroup group(GetParam(), 512);
  for (int owner = 0; owner < group.size(); ++owner) {
    std::vector<std::size_t> counts(group.size(), 0);
    counts[owner] = 3001;
    ExpectReducescatter(group, Params(DType::kInt32, ReduceOp::kMax), counts, 1, 40 + owner);
    counts.assign(group.size(), 1);
    counts[owner] = 3001;
    ExpectReducescatter(group, Params(DType::kInt32, ReduceOp::kMin), counts, 9, 50 + owner);
  }
}

// Windows that have no room for a part of every rank.
TEST_P(ShmReducescatter, TakesTurnsInTinyWindows) {
  for (const std::size_t window : {64, 128, 192, 256, 384}) {
    ShmGroup group(GetParam(), window);
    std::vector<std::size_t> counts(group.size());
    std::iota(counts.begin(), counts.end(), 100);
    ExpectReducescatter(group, Params(DType::kComplex128, ReduceOp::kSum), counts, 4, window);
    counts.back() = 0;
    ExpectReducescatter(group, Params(DType::kUInt8, ReduceOp::kSum), counts, 1, window + 1);
  }
}

TEST_P(ShmReducescatter, ReducesEveryTypeByEveryOp) {
  ShmGroup group(GetParam(), 1024);
  std::uint64_t seed = 900;
  for (int type = 0; type < kDTypeCount; ++type) {
    for (const ReduceOp op : kElementwiseOps) {
      const auto dtype = static_cast<DType>(type);
      if (!IsReducible(dtype, op)) continue;
      std::vector<std::size_t> counts(group.size(), 301);
      counts[0] = 7;
      ExpectReducescatter(group, Params(dtype, op), counts, 5, ++seed);
      ExpectReducescatter(group, Params(dtype, op, 0.37, 1.9), counts, 1, ++seed);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmReducescatter, testing::Values(1, 2, 3, 4, 7),
                         testing::PrintToStringParamName());

// Fewer steps than the largest part times the ranks: those that get nothing take no room.
TEST(ShmReducescatterSteps, AreAsFewAsTheWholeNeeds) {
  constexpr std::size_t kWindow = 4096;
  ShmGroup group(4, kWindow);
  ExpectReducescatter(group, Params(DType::kUInt8, ReduceOp::kSum), {10 * kWindow, 0, 0, 0}, 1, 1);
  EXPECT_EQ(group.board().flags(1).lane(Lane::kBulk).copied.load(), 10u);
  ExpectReducescatter(group, Params(DType::kUInt8, ReduceOp::kSum),
                      {kWindow, kWindow, kWindow, kWindow}, 1, 2);
  EXPECT_EQ(group.board().flags(1).lane(Lane::kBulk).copied.load(), 14u);
}

}  // namespace
}  // namespace hora
