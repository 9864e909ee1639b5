// Allreduces in which some ranks take part without bringing anything, because they have joined.
#include "collectives/operands.h"

namespace hora {
namespace {

RankSet Ranks(std::initializer_list<int> ranks) {
  RankSet set;
  for (const int rank : ranks) set.Add(rank);
  return set;
}

// What the absent ranks' memory holds means nothing, so it is filled with NaNs and large numbers.
void ExpectAllreduce(ShmGroup& group, const OpParams& params, const RankSet& absent, int divisor,
                     std::size_t elements, bool in_place, std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << elements << " x " << ToString(params.dtype) << " "
                                  << ToString(params.reduce_op) << " without " << absent.ToString()
                                  << " of " << group.size());
  const std::size_t element = SizeOf(params.dtype);
  const auto operands = RandomOperands(params.dtype, elements, group.size(), seed);
  const Bytes expected = Expected(params, operands, divisor, absent);
  std::vector<Bytes> results(operands.size());
  group.RunOk([&](int rank, ShmBackend& backend) {
    const Bytes scratch(operands[rank].size(), std::byte{0xFF});
    const bool brings = !absent.Contains(rank);
    Pieces in(brings ? operands[rank] : scratch, 7, element, seed);
    Pieces out(scratch, 5, element, seed + 1);
    CollectiveCall call =
        AllreduceCall(params, group.size(), in.Stream(), in_place ? in.Stream() : out.Stream());
    call.absent = absent;
    call.divisor = divisor;
    if (!brings && !in_place) call.inputs.clear();
    Status status = backend.Execute(call);
    results[rank] = in_place ? in.Contents() : out.Contents();
    return status;
  });
  for (int rank = 0; rank < group.size(); ++rank) {
    EXPECT_TRUE(results[rank] == expected) << "rank " << rank;
  }
}

class ShmAbsent : public testing::TestWithParam<int> {};

TEST_P(ShmAbsent, LeavesTheOperandOut) {
  const int size = GetParam();
  ShmGroup group(size, 1024);
  std::vector<RankSet> sets = {Ranks({0}), Ranks({size - 1}), RankSet::AllOf(size - 1)};
  if (size > 3) sets.push_back(Ranks({1, size - 1}));
  std::uint64_t seed = 0;
  for (const RankSet& absent : sets) {
    const int present = size - absent.count();
    for (const std::uint64_t chunk : {0, 128}) {
      group.Retune({.chunk_bytes = chunk, .small_allreduce_bytes = 512});
      for (const std::size_t elements : {0u, 1u, 100u, 128u, 129u, 5000u}) {
        for (const ReduceOp op : kElementwiseOps) {
          ExpectAllreduce(group, Params(DType::kFloat32, op), absent, present, elements,
                          seed % 2 == 0, seed);
          ++seed;
        }
      }
    }
  }
}

TEST_P(ShmAbsent, DividesByWhatTheCallSays) {
  const int size = GetParam();
  ShmGroup group(size, 1024);
  for (const DType dtype : {DType::kFloat64, DType::kInt32, DType::kBFloat16}) {
    for (const std::size_t elements : {3u, 4000u}) {
      ExpectAllreduce(group, Params(dtype, ReduceOp::kAverage, 0.5, 3), Ranks({0}), size - 1,
                      elements, true, 1);
      ExpectAllreduce(group, Params(dtype, ReduceOp::kAverage), Ranks({0}), size, elements, false,
                      2);
    }
  }
}

// After a call without some ranks comes one with all of them.
TEST_P(ShmAbsent, IsOfOneCallOnly) {
  const int size = GetParam();
  ShmGroup group(size, 1024);
  for (int round = 0; round < 20; ++round) {
    const std::size_t elements = round % 3 == 0 ? 5 : 3000;
    const RankSet absent = round % 2 == 0 ? Ranks({round % size}) : RankSet();
    ExpectAllreduce(group, Params(DType::kInt64, ReduceOp::kAverage), absent, size - absent.count(),
                    elements, true, round);
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmAbsent, testing::Values(2, 3, 4, 7),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace hora
