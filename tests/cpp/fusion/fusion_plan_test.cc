#include "hora/fusion/fusion_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

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

std::vector<std::vector<std::uint32_t>> Members(const std::vector<Response>& responses,
                                                std::size_t threshold) {
  std::vector<std::vector<std::uint32_t>> members;
  for (const Batch& batch : PlanFusion(responses, kSize, threshold)) {
    members.push_back(batch.members);
  }
  return members;
}

using Plan = std::vector<std::vector<std::uint32_t>>;

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
  const auto plan = PlanFusion(responses, kSize, 1024);
  ASSERT_EQ(plan.size(), 2u);
  EXPECT_EQ(plan[0].members, (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(plan[0].bytes_per_rank, (std::vector<std::uint64_t>{19}));
}

TEST(PlanFusion, CountsWhatEveryRankGathers) {
  const std::vector<Response> responses{Gather({1, 0, 2}, 4), Gather({0, 3, 0}, 1)};
  const auto plan = PlanFusion(responses, kSize, 60);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].bytes_per_rank, (std::vector<std::uint64_t>{16, 12, 32}));
  EXPECT_EQ(PlanFusion(responses, kSize, 59).size(), 2u);
}

TEST(PlanFusion, ThresholdZeroTurnsItOff) {
  EXPECT_EQ(Members({Reduction(0), Reduction(0), Reduction(1)}, 0), (Plan{{0}, {1}, {2}}));
}

TEST(PlanFusion, OneThatIsTooLargeLeavesTheOpenBatchOpen) {
  EXPECT_EQ(Members({Reduction(1), Reduction(1000), Reduction(1)}, 100), (Plan{{0, 2}, {1}}));
}

TEST(PlanFusion, CountsBeyond32Bits) {
  const std::vector<Response> responses{Reduction(3'000'000'000), Reduction(2'000'000'000)};
  const auto plan = PlanFusion(responses, kSize, std::size_t{1} << 40);
  ASSERT_EQ(plan.size(), 1u);
  EXPECT_EQ(plan[0].bytes_per_rank[0], 20'000'000'000u);
}

Response Random(std::mt19937_64& random) {
  Response response;
  switch (random() % 8) {
    case 0:
      response = Barrier();
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
    default:
      response = Reduction(random() % 60, random() % 2 ? DType::kFloat32 : DType::kFloat64);
  }
  if (random() % 10 == 0) response.error = Status(StatusCode::kMismatch, "made up");
  response.name = std::to_string(random());
  return response;
}

std::uint64_t Bytes(const Response& response) {
  const OpParams& params = response.params;
  if (params.kind == OpKind::kBarrier) return 0;
  std::int64_t elements = 0;
  if (params.kind == OpKind::kAllgather) {
    for (const auto rows : response.first_dims) elements += rows * params.shape.elements_per_row();
  } else {
    elements = params.shape.num_elements();
  }
  return static_cast<std::uint64_t>(elements) * SizeOf(params.dtype);
}

OpParams Ignoring(OpParams params) {
  params.shape = {};
  if (params.kind == OpKind::kBroadcast) params.dtype = DType::kUInt8;
  return params;
}

void ExpectSound(const std::vector<Response>& responses, const std::vector<Batch>& plan,
                 std::size_t threshold) {
  std::vector<int> seen(responses.size(), 0);
  std::uint32_t last_first = 0;
  for (const Batch& batch : plan) {
    ASSERT_FALSE(batch.members.empty());
    EXPECT_TRUE(std::ranges::is_sorted(batch.members));
    EXPECT_GE(batch.members[0], last_first) << "batches are ordered by their first member";
    last_first = batch.members[0];
    std::uint64_t total = 0;
    for (const auto member : batch.members) {
      ++seen[member];
      total += Bytes(responses[member]);
      EXPECT_EQ(Ignoring(responses[member].params), Ignoring(batch.params));
    }
    std::uint64_t stated = 0;
    for (const auto bytes : batch.bytes_per_rank) stated += bytes;
    EXPECT_EQ(stated, total);
    const bool may_fuse = threshold > 0 && batch.params.kind != OpKind::kBarrier;
    EXPECT_TRUE(batch.members.size() == 1 || (may_fuse && total <= threshold));
  }
  for (std::size_t i = 0; i < responses.size(); ++i) {
    EXPECT_EQ(seen[i], responses[i].error.ok() ? 1 : 0) << "response " << i;
  }
}

TEST(PlanFusion, IsSoundForAnyResponses) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 500; ++round) {
    std::vector<Response> responses(random() % 40);
    for (auto& response : responses) response = Random(random);
    const std::size_t threshold = random() % 5 == 0 ? 0 : random() % 600;
    const auto plan = PlanFusion(responses, kSize, threshold);
    ExpectSound(responses, plan, threshold);
    const auto again = PlanFusion(std::vector(responses), kSize, threshold);
    ASSERT_EQ(again.size(), plan.size());
    for (std::size_t i = 0; i < plan.size(); ++i) EXPECT_EQ(again[i].members, plan[i].members);
    ASSERT_FALSE(HasFailure()) << "round " << round << ", threshold " << threshold;
  }
}

}  // namespace
}  // namespace hora
