#include "collectives/operands.h"
#include "hora/collectives/shm/streaming.h"

namespace hora {
namespace {

enum class Layout { kInPlace, kWhole, kFragmented };

void ExpectAllreduce(ShmGroup& group, const OpParams& params, std::size_t elements, Layout layout,
                     std::uint64_t seed) {
  SCOPED_TRACE(testing::Message() << elements << " x " << ToString(params.dtype) << " "
                                  << ToString(params.reduce_op) << ", " << group.size()
                                  << " ranks, layout " << static_cast<int>(layout));
  const auto operands = RandomOperands(params.dtype, elements, group.size(), seed);
  const Bytes expected = Expected(params, operands, group.size());
  const int pieces = layout == Layout::kFragmented ? 300 : 1;
  const std::size_t element = SizeOf(params.dtype);
  std::vector<Bytes> results(operands.size());
  group.RunOk([&](int rank, ShmBackend& backend) {
    Pieces in(operands[rank], pieces, element, seed);
    // Differently cut than the input, so that pieces of both must be matched.
    Pieces out(Bytes(operands[rank].size()), pieces, element, seed + 1);
    const bool in_place = layout == Layout::kInPlace;
    CollectiveCall call =
        AllreduceCall(params, group.size(), in.Stream(), in_place ? in.Stream() : out.Stream());
    Status status = backend.Execute(call);
    results[rank] = in_place ? in.Contents() : out.Contents();
    EXPECT_TRUE(in_place || in.Contents() == operands[rank]) << "the input changed";
    return status;
  });
  for (int rank = 0; rank < group.size(); ++rank) {
    EXPECT_TRUE(results[rank] == expected) << "rank " << rank;
  }
}

class ShmAllreduce : public testing::TestWithParam<int> {};

TEST_P(ShmAllreduce, HasTheBitsOfOneReductionAtEverySize) {
  constexpr std::size_t kWindow = 4096, kFloats = kWindow / 4;
  ShmGroup group(GetParam(), kWindow);
  std::uint64_t seed = 1;
  for (const std::size_t elements :
       {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{15}, std::size_t{16},
        std::size_t{17}, kFloats - 1, kFloats, kFloats + 1, 2 * kFloats - 1, 2 * kFloats,
        2 * kFloats + 1, 4 * kFloats, 4 * kFloats + 17, 5 * kFloats - 3, 37 * kFloats + 3}) {
    for (const Layout layout : {Layout::kInPlace, Layout::kWhole, Layout::kFragmented}) {
      ExpectAllreduce(group, Params(DType::kFloat32, ReduceOp::kSum), elements, layout, ++seed);
    }
  }
}

TEST_P(ShmAllreduce, NeedsNoMoreThanALineForAFewBytes) {
  ShmGroup group(GetParam(), 4096);
  for (std::size_t bytes = 1; bytes <= kLineBytes + 1; ++bytes) {
    for (const Layout layout : {Layout::kInPlace, Layout::kWhole, Layout::kFragmented}) {
      ExpectAllreduce(group, Params(DType::kUInt8, ReduceOp::kSum), bytes, layout, bytes);
    }
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt32}) {
    ExpectAllreduce(group, Params(dtype, ReduceOp::kAverage, 3, 0.1), 14, Layout::kWhole, 11);
  }
  for (int rank = 0; group.size() > 1 && rank < group.size(); ++rank) {
    const LaneFlags& flags = group.board().flags(rank).lane(Lane::kBulk);
    EXPECT_EQ(flags.copied.load(), 3u) << "one step for each layout of what no line can take";
    EXPECT_GT(flags.lines[0].sequence.load(), kLineBytes);
  }
}

TEST_P(ShmAllreduce, IsTheSameWhereInputsAreFetchedEarly) {
  ShmGroup group(GetParam(), 256u << 10);
  for (const Layout layout : {Layout::kInPlace, Layout::kWhole, Layout::kFragmented}) {
    ExpectAllreduce(group, Params(DType::kFloat32, ReduceOp::kSum), kFetchEarlyBytes / 4 + 7,
                    layout, 77);
  }
}

TEST_P(ShmAllreduce, CrossesFromOnePhaseToTwoUnnoticed) {
  ShmGroup group(GetParam(), 256u << 10);
  for (const std::size_t limit : {0u, 1u << 10, 16u << 10, 256u << 10, 1u << 20}) {
    group.Retune({.small_allreduce_bytes = limit});
    for (const std::size_t elements : {limit / 4 + 1, limit / 4, limit / 4 + 2}) {
      ExpectAllreduce(group, Params(DType::kFloat32, ReduceOp::kAverage), elements,
                      Layout::kInPlace, elements);
    }
  }
}

TEST_P(ShmAllreduce, ReducesEveryTypeByEveryOp) {
  ShmGroup group(GetParam(), 1024);
  std::uint64_t seed = 500;
  for (int type = 0; type < kDTypeCount; ++type) {
    for (const ReduceOp op : kElementwiseOps) {
      const OpParams params = Params(static_cast<DType>(type), op);
      if (!IsReducible(params.dtype, op)) continue;
      ExpectAllreduce(group, params, 61, Layout::kWhole, ++seed);
      ExpectAllreduce(group, params, 1501, Layout::kFragmented, ++seed);
    }
  }
}

TEST_P(ShmAllreduce, ScalesBeforeAndAfter) {
  ShmGroup group(GetParam(), 1024);
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kInt32}) {
    for (const std::size_t elements : {7u, 3000u}) {
      ExpectAllreduce(group, Params(dtype, ReduceOp::kSum, 0.37, 1.9), elements, Layout::kInPlace,
                      9);
      ExpectAllreduce(group, Params(dtype, ReduceOp::kAverage, 3, 0.1), elements, Layout::kWhole,
                      10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmAllreduce, testing::Values(1, 2, 3, 4, 7),
                         testing::PrintToStringParamName());

// Independent of the kernels: additions written out in the order of the ranks.
TEST(ShmAllreduceOrder, IsTheOrderOfTheRanks) {
  constexpr int kSize = 3;
  constexpr std::size_t kElements = 5000;
  std::vector<std::vector<float>> operands(kSize, std::vector<float>(kElements));
  Random random(3);
  std::uniform_real_distribution<float> real(-1e3f, 1e3f);
  for (auto& operand : operands) {
    for (float& value : operand) value = real(random);
  }
  std::vector<float> expected(kElements);
  for (std::size_t i = 0; i < kElements; ++i) {
    expected[i] = operands[0][i] + operands[1][i] + operands[2][i];
  }
  ShmGroup group(kSize, 4096);
  group.RunOk([&](int rank, ShmBackend& backend) {
    const ByteStream stream({std::as_writable_bytes(std::span(operands[rank]))});
    CollectiveCall call =
        AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), kSize, stream, stream);
    return backend.Execute(call);
  });
  for (const auto& result : operands) EXPECT_EQ(result, expected);
}

}  // namespace
}  // namespace hora
