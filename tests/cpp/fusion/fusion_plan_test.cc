#include "hora/fusion/fusion_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <span>
#include <utility>

#include "fusion/sharing.h"

namespace hora {
namespace {

constexpr int kSize = 3;

Response Reduction(std::int64_t elements, DType dtype = DType::kFloat32) {
  Response response;
  response.params.kind = OpKind::kAllreduce;
  response.params.dtype = dtype;
  response.params.shape = {elements};
  return response;
}

Response Gather(std::vector<std::int64_t> rows, std::int64_t columns) {
  Response response;
  response.params.kind = OpKind::kAllgather;
  response.params.shape = {0, columns};
  response.first_dims = std::move(rows);
  return response;
}

Response Broadcast(std::int64_t elements, DType dtype, int root) {
  Response response = Reduction(elements, dtype);
  response.params.kind = OpKind::kBroadcast;
  response.params.root_rank = root;
  return response;
}

Response Barrier() {
  Response response;
  response.params.kind = OpKind::kBarrier;
  return response;
}

Response Scatter(std::int64_t rows, std::int64_t columns) {
  Response response = Reduction(0);
  response.params.kind = OpKind::kReducescatter;
  response.params.shape = {rows, columns};
  return response;
}

Response Alone(OpKind kind) {
  Response response;
  response.params.kind = kind;
  response.params.shape = {0, 4};
  return response;
}

Response GroupOf(std::vector<TensorSpec> tensors) {
  Response response = Reduction(0, tensors.front().dtype);
  response.params.shape = tensors.front().shape;
  response.params.rest.assign(tensors.begin() + 1, tensors.end());
  return response;
}

std::vector<std::uint32_t> ResponsesOf(const Batch& batch) {
  std::vector<std::uint32_t> responses;
  for (const Batch::Member& member : batch.members) responses.push_back(member.response);
  return responses;
}

std::vector<std::vector<std::uint32_t>> Members(const std::vector<Response>& responses,
                                                std::size_t threshold) {
  std::vector<std::vector<std::uint32_t>> members;
  for (const Batch& batch : PlanFusion(Share(responses), kSize, threshold)) {
    members.push_back(ResponsesOf(batch));
  }
  return members;
}

using Plan = std::vector<std::vector<std::uint32_t>>;
using Tensors = std::vector<Batch::Member>;

TEST(PlanFusion, FillsABatchToTheLastByte) {
  const std::vector<Response> responses{Reduction(10), Reduction(5), Reduction(1)};
  EXPECT_EQ(Members(responses, 60), (Plan{{0, 1}, {2}}));
  EXPECT_EQ(Members(responses, 59), (Plan{{0}, {1, 2}}));
  EXPECT_EQ(Members(responses, 64), (Plan{{0, 1, 2}}));
}

TEST(PlanFusion, SkipsErrorsAndKeepsBarriersAlone) {
  std::vector<Response> responses{Reduction(1), Barrier(), Reduction(1), Barrier(), Reduction(1)};
  responses[2].error = Status(StatusCode::kMismatch, "shapes differ");
  EXPECT_EQ(Members(responses, 1024), (Plan{{0, 4}, {1}, {3}}));
}

TEST(PlanFusion, SeparatesWhatCannotShareOneReduction) {
  std::vector<Response> responses(7, Reduction(1));
  responses[1].params.dtype = DType::kBFloat16;
  responses[2].params.reduce_op = ReduceOp::kMax;
  responses[3].params.prescale = 0.5;
  responses[4].params.postscale = 2.0;
  responses[5].params.device = {DeviceType::kCuda, 1};
  EXPECT_EQ(Members(responses, 1024), (Plan{{0, 6}, {1}, {2}, {3}, {4}, {5}}));
}

TEST(PlanFusion, FusesBroadcastsOfAnyTypeFromOneRoot) {
  const std::vector<Response> responses{Broadcast(4, DType::kFloat32, 0),
                                        Broadcast(3, DType::kInt8, 0),
                                        Broadcast(1, DType::kFloat32, 1)};
  const auto plan = PlanFusion(Share(responses), kSize, 1024);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(ResponsesOf(plan[0]), (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(plan[0].bytes_per_rank, (std::vector<std::uint64_t>{19}));
}

TEST(PlanFusion, CountsWhatEveryRankGathers) {
  const std::vector<Response> responses{Gather({1, 0, 2}, 4), Gather({0, 3, 0}, 1)};
  const auto plan = PlanFusion(Share(responses), kSize, 60);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].bytes_per_rank, (std::vector<std::uint64_t>{16, 12, 32}));
  EXPECT_EQ(PlanFusion(Share(responses), kSize, 59).size(), 2u);
}

TEST(PlanFusion, AScatterCountsWhatEveryRankReceives) {
  const std::vector<Response> responses{Scatter(7, 2), Scatter(2, 1)};
  const auto plan = PlanFusion(Share(responses), kSize, 64);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].bytes_per_rank, (std::vector<std::uint64_t>{28, 20, 16}));
  EXPECT_EQ(PlanFusion(Share(responses), kSize, 63).size(), 2u);
}

TEST(PlanFusion, JoinsAndAlltoallsStayAlone) {
  const std::vector<Response> responses{Alone(OpKind::kAlltoall), Alone(OpKind::kAlltoall),
                                        Alone(OpKind::kJoin), Alone(OpKind::kJoin)};
  const auto plan = PlanFusion(Share(responses), kSize, 1024);
  ASSERT_EQ(plan.size(), 4u);
  EXPECT_TRUE(plan[0].bytes_per_rank.empty());
  EXPECT_EQ(plan[3].bytes_per_rank, std::vector<std::uint64_t>{0});
}

TEST(PlanFusion, AGroupIsPartedByDTypeOnlyAndMayExceedTheThreshold) {
  const std::vector<Response> responses{
      Reduction(1), GroupOf({{DType::kFloat32, {2}}, {DType::kInt8, {3}}, {DType::kFloat32, {4}}}),
      Reduction(1)};
  auto plan = PlanFusion(Share(responses), kSize, 20);
  ASSERT_EQ(plan.size(), 3u);
  EXPECT_EQ(plan[0].members, (Tensors{{0, 0}, {2, 0}}));  // the group is larger by itself
  EXPECT_EQ(plan[1].members, (Tensors{{1, 0}, {1, 2}}));
  EXPECT_EQ(plan[1].bytes_per_rank, std::vector<std::uint64_t>{24});
  EXPECT_EQ(plan[2].members, (Tensors{{1, 1}}));
  EXPECT_EQ(plan[2].params.dtype, DType::kInt8);
  plan = PlanFusion(Share(responses), kSize, 32);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[0].members, (Tensors{{0, 0}, {1, 0}, {1, 2}, {2, 0}}));
  EXPECT_EQ(PlanFusion(Share(responses), kSize, 0).size(), 4u);
}

TEST(PlanFusion, AGroupOfGathersKnowsItsRows) {
  Response response = Gather({1, 10, 2, 20, 3, 30}, 2);  // of two tensors, rank by rank
  response.params.rest = {{DType::kFloat32, {0}}};
  const auto plan = PlanFusion(Share(std::vector{response}), kSize, 4096);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].bytes_per_rank, (std::vector<std::uint64_t>{48, 96, 144}));
}

TEST(PlanFusion, SeparatesTheAbsentAndAdasum) {
  std::vector<Response> responses(6, Reduction(1));
  responses[1].absent = RankSet::Of(2);
  responses[3].absent = RankSet::Of(2);
  responses[4].params.reduce_op = responses[5].params.reduce_op = ReduceOp::kAdasum;
  EXPECT_EQ(Members(responses, 1024), (Plan{{0, 2}, {1, 3}, {4, 5}}));
}

TEST(RowsOfRank, PartTheRowsInOrder) {
  for (std::int64_t rows = 0; rows < 20; ++rows) {
    for (int size = 1; size < 8; ++size) {
      std::int64_t next = 0;
      std::int64_t last = rows;
      for (int rank = 0; rank < size; ++rank) {
        const RowRange range = RowsOfRank(rows, rank, size);
        EXPECT_EQ(range.first, next);
        EXPECT_LE(range.count, last);  // the first ranks get one more
        next += range.count;
        last = range.count;
        EXPECT_LE(range.count - rows / size, 1);
      }
      EXPECT_EQ(next, rows);
    }
  }
}

TEST(PlanFusion, ThresholdZeroTurnsItOff) {
  EXPECT_EQ(Members({Reduction(0), Reduction(0), Reduction(1)}, 0), (Plan{{0}, {1}, {2}}));
}

TEST(PlanFusion, OneThatIsTooLargeLeavesTheOpenBatchOpen) {
  EXPECT_EQ(Members({Reduction(1), Reduction(1000), Reduction(1)}, 100), (Plan{{0, 2}, {1}}));
}

TEST(PlanFusion, CountsBeyond32Bits) {
  const std::vector<Response> responses{Reduction(3'000'000'000), Reduction(2'000'000'000)};
  const auto plan = PlanFusion(Share(responses), kSize, std::size_t{1} << 40);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].bytes_per_rank[0], 20'000'000'000u);
}

Response Random(std::mt19937_64& random) {
  Response response;
  switch (random() % 11) {
    case 0:
      response = random() % 2 ? Barrier() : Alone(random() % 2 ? OpKind::kJoin : OpKind::kAlltoall);
      break;
    case 1:
      response = Broadcast(random() % 40, DType(random() % 20), random() % kSize);
      break;
    case 2: {
      std::vector<std::int64_t> rows(kSize);
      for (auto& count : rows) count = random() % 5;
      response = Gather(std::move(rows), random() % 6);
      break;
    }
    case 3:
      response = Scatter(random() % 9, random() % 4);
      break;
    case 4: {
      std::vector<TensorSpec> tensors(random() % 6 + 1);
      for (TensorSpec& tensor : tensors) {
        tensor.dtype = random() % 2 ? DType::kFloat32 : DType::kFloat64;
        tensor.shape = {static_cast<std::int64_t>(random() % 30)};
      }
      response = GroupOf(std::move(tensors));
      break;
    }
    default:
      response = Reduction(random() % 60, random() % 2 ? DType::kFloat32 : DType::kFloat64);
  }
  const bool reduces = response.params.kind == OpKind::kAllreduce;
  if (reduces && random() % 4 == 0) response.absent = RankSet::Of(static_cast<int>(random() % 2));
  if (random() % 10 == 0) response.error = Status(StatusCode::kMismatch, "made up");
  response.name = std::to_string(random());
  return response;
}

std::uint64_t Bytes(const Response& response, std::uint32_t tensor) {
  const OpParams& params = response.params;
  std::int64_t elements = 0;
  switch (params.kind) {
    case OpKind::kBarrier:
    case OpKind::kJoin:
    case OpKind::kAlltoall:
      break;
    case OpKind::kAllgather:
      for (const auto rows : response.first_dims) {
        elements += rows * params.shape.elements_per_row();
      }
      break;
    default:
      elements = params.shape_of(tensor).num_elements();
  }
  return static_cast<std::uint64_t>(elements) * SizeOf(params.dtype_of(tensor));
}

OpParams Ignoring(OpParams params, DType dtype) {
  params.shape = {};
  params.rest = {};
  params.dtype = params.kind == OpKind::kBroadcast ? DType::kUInt8 : dtype;
  return params;
}

// One response, all of whose tensors of the batch's dtype are in the batch.
bool IsOneUnit(const Batch& batch, const std::vector<Response>& responses) {
  const auto response = batch.members.front().response;
  const OpParams& params = responses[response].params;
  std::size_t alike = 0;
  for (std::size_t tensor = 0; tensor < params.tensor_count(); ++tensor) {
    alike += params.dtype_of(tensor) == batch.params.dtype ? 1 : 0;
  }
  return batch.members.back().response == response && batch.members.size() == alike;
}

void ExpectSound(const std::vector<Response>& responses, const std::vector<Batch>& plan,
                 std::size_t threshold) {
  std::map<std::pair<std::uint32_t, std::uint32_t>, int> seen;
  std::map<std::pair<std::uint32_t, DType>, const Batch*> batch_of;
  std::pair<std::uint32_t, std::uint32_t> last_first;
  for (const Batch& batch : plan) {
    ASSERT_FALSE(batch.members.empty());
    const Batch::Member first = batch.members.front();
    EXPECT_GE(std::pair(first.response, first.tensor), last_first) << "not by first member";
    last_first = {first.response, first.tensor};
    std::uint64_t total = 0;
    auto last = std::pair(first.response, first.tensor);
    for (const auto [index, tensor] : batch.members) {
      EXPECT_LE(last, std::pair(index, tensor)) << "members ascend";
      last = {index, tensor};
      ++seen[last];
      const Response& response = responses[index];
      const DType dtype = response.params.dtype_of(tensor);
      total += Bytes(response, tensor);
      EXPECT_EQ(Ignoring(response.params, dtype), Ignoring(batch.params, batch.params.dtype));
      EXPECT_EQ(response.absent, responses[first.response].absent);
      EXPECT_EQ(batch_of.try_emplace({index, dtype}, &batch).first->second, &batch) << "torn";
    }
    std::uint64_t stated = 0;
    for (const auto bytes : batch.bytes_per_rank) stated += bytes;
    EXPECT_EQ(stated, total);
    const OpKind kind = batch.params.kind;
    const bool may_fuse = threshold > 0 && kind != OpKind::kBarrier && kind != OpKind::kJoin &&
                          kind != OpKind::kAlltoall;
    EXPECT_TRUE(IsOneUnit(batch, responses) || (may_fuse && total <= threshold));
  }
  for (std::uint32_t i = 0; i < responses.size(); ++i) {
    for (std::uint32_t tensor = 0; tensor < responses[i].params.tensor_count(); ++tensor) {
      const int times = seen[{i, tensor}];
      EXPECT_EQ(times, responses[i].error.ok() ? 1 : 0) << "response " << i;
    }
  }
}

TEST(FusionPlan, PlansAnewOnlyWhatIsNotARepeat) {
  FusionPlan plan(kSize);
  const std::vector<Agreed> agreed =
      Share({Reduction(4), Barrier(), Reduction(5), Reduction(6, DType::kFloat64)});
  const auto batches = [&](std::span<const Agreed> of, std::size_t threshold) {
    const std::span<const Batch> planned = plan.For(of, threshold);
    const std::vector<Batch> expected = PlanFusion(of, kSize, threshold);
    EXPECT_TRUE(std::ranges::equal(planned, expected, {}, &Batch::members, &Batch::members));
    return planned.data();
  };
  EXPECT_TRUE(plan.For({}, 1024).empty());
  const Batch* const first = batches(agreed, 1024);
  const std::vector<Agreed> again = agreed;  // the same responses
  EXPECT_EQ(batches(again, 1024), first);
  batches(std::span(agreed).first(3), 1024);
  batches(agreed, 1024);
  batches(agreed, 16);
  batches(Share({Reduction(4), Barrier(), Reduction(5), Reduction(7)}), 16);
}

TEST(PlanFusion, IsSoundForAnyResponses) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 500; ++round) {
    std::vector<Response> responses(random() % 40);
    for (auto& response : responses) response = Random(random);
    const std::size_t threshold = random() % 5 == 0 ? 0 : random() % 600;
    const auto plan = PlanFusion(Share(responses), kSize, threshold);
    ExpectSound(responses, plan, threshold);
    const auto again = PlanFusion(Share(std::vector(responses)), kSize, threshold);
    ASSERT_EQ(again.size(), plan.size());
    for (std::size_t i = 0; i < plan.size(); ++i) EXPECT_EQ(again[i].members, plan[i].members);
    ASSERT_FALSE(HasFailure()) << "round " << round << ", threshold " << threshold;
  }
}

}  // namespace
}  // namespace hora
