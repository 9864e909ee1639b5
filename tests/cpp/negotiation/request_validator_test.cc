#include "hora/negotiation/request_validator.h"

#include <gtest/gtest.h>

#include <limits>

#include "hora/wire/limits.h"
#include "negotiation/negotiator_tree.h"

namespace hora {
namespace {

SubtreeRequest Asked(const std::vector<Request>& by_rank) {
  SubtreeRequest asked{.name = by_rank.front().name};
  for (std::size_t rank = 0; rank < by_rank.size(); ++rank) {
    const Request& request = by_rank[rank];
    auto same = asked.variants.begin();
    while (same != asked.variants.end() && !(same->params == request.params)) ++same;
    if (same == asked.variants.end()) same = asked.variants.insert(same, {request.params});
    same->ranks.Add(static_cast<int>(rank));
    if (request.params.kind == OpKind::kAllgather) {
      for (const std::int64_t rows : request.first_dims) {
        same->first_dims.push_back({static_cast<int>(rank), rows});
      }
    }
  }
  return asked;
}

Response Decided(const std::vector<Request>& by_rank) {
  return Decide(Asked(by_rank), static_cast<int>(by_rank.size()), {});
}

std::string Mismatch(const std::vector<Request>& by_rank) {
  const Response response = Decided(by_rank);
  EXPECT_EQ(response.error.code(), StatusCode::kMismatch);
  EXPECT_EQ(response.name, by_rank.front().name);
  return response.error.message();
}

Request Changed(Request request, const std::function<void(OpParams&)>& change) {
  change(request.params);
  return request;
}

TEST(RequestValidator, AgreementCarriesTheParameters) {
  const Response response = Decided({Allgather("x", 2), Allgather("x", 0), Allgather("x", 5)});
  EXPECT_TRUE(response.error.ok());
  EXPECT_EQ(response.params, Allgather("x", 2).params);
  EXPECT_EQ(response.first_dims, (std::vector<std::int64_t>{2, 0, 5}));
}

TEST(RequestValidator, ShapeMismatch) {
  EXPECT_EQ(Mismatch({Allreduce("grad.w", {2, 3}), Allreduce("grad.w", {3, 2}),
                      Allreduce("grad.w", {2, 3}), Allreduce("grad.w", {2, 3})}),
            "allreduce 'grad.w': ranks disagree on shape: ranks 0, 2-3: [2, 3]; rank 1: [3, 2]. "
            "Submit the same shape on every rank.");
}

TEST(RequestValidator, AllgatherMayDifferInTheFirstDimensionOnly) {
  EXPECT_EQ(Mismatch({Allgather("x", 1, 3), Allgather("x", 2, 4)}),
            "allgather 'x': ranks disagree on shape after the first dimension: rank 0: [*, 3]; "
            "rank 1: [*, 4]. Submit the same shape after the first dimension on every rank.");
}

TEST(RequestValidator, EveryAspectIsNamed) {
  const Request base = Allreduce("w");
  const auto differs = [&](const std::function<void(OpParams&)>& change) {
    return Mismatch({base, Changed(base, change)});
  };
  EXPECT_EQ(differs([](OpParams& p) { p.dtype = DType::kFloat64; }),
            "allreduce 'w': ranks disagree on dtype: rank 0: float32; rank 1: float64. Submit the "
            "same dtype on every rank.");
  EXPECT_EQ(differs([](OpParams& p) { p.reduce_op = ReduceOp::kMax; }),
            "allreduce 'w': ranks disagree on reduce op: rank 0: sum; rank 1: max. Submit the same "
            "reduce op on every rank.");
  EXPECT_EQ(differs([](OpParams& p) { p.prescale = 0.5; }),
            "allreduce 'w': ranks disagree on prescale: rank 0: 1; rank 1: 0.5. Submit the same "
            "prescale on every rank.");
  EXPECT_EQ(differs([](OpParams& p) { p.postscale = 0.25; }),
            "allreduce 'w': ranks disagree on postscale: rank 0: 1; rank 1: 0.25. Submit the same "
            "postscale on every rank.");
  EXPECT_EQ(differs([](OpParams& p) { p.device.type = DeviceType::kCuda; }),
            "allreduce 'w': ranks disagree on device: rank 0: cpu; rank 1: cuda. Submit the same "
            "device on every rank.");
  EXPECT_EQ(
      Mismatch({Broadcast("b", 0), Broadcast("b", 1)}),
      "broadcast 'b': ranks disagree on root rank: rank 0: 0; rank 1: 1. Submit the same root "
      "rank on every rank.");
}

Request Group(std::vector<Shape> shapes) {
  Request group = Allreduce("g", shapes.front());
  for (std::size_t i = 1; i < shapes.size(); ++i) group.params.rest.push_back({.shape = shapes[i]});
  return group;
}

TEST(RequestValidator, AGroupNamesTheTensorThatDiffers) {
  EXPECT_EQ(Mismatch({Group({{1}, {2}, {3}, {4}, {5}}), Group({{1}, {2}, {9}, {4}, {7}})}),
            "allreduce 'g' (tensor 3 of 5): ranks disagree on shape: rank 0: [3]; rank 1: [9]. "
            "Submit the same shape on every rank.");
  EXPECT_EQ(Mismatch({Group({{1}, {2}}), Group({{1}, {2}, {3}}), Group({{1}, {2}})}),
            "allreduce 'g': ranks disagree on number of tensors: ranks 0, 2: 2; rank 1: 3. Submit "
            "the same number of tensors on every rank.");
  Request other = Group({{1}, {2}});
  other.params.rest[0].dtype = DType::kInt8;
  other.params.prescale = 2;
  EXPECT_EQ(Mismatch({Group({{1}, {2}}), other}),
            "allreduce 'g' (tensor 2 of 2): ranks disagree on dtype: rank 0: float32; rank 1: "
            "int8; and on prescale: rank 0: 1; rank 1: 2. Submit the same dtype and prescale on "
            "every rank.");
}

TEST(RequestValidator, ARankIsNamedByItsNumberInTheJob) {
  const SubtreeRequest asked = Asked({Broadcast("b", 0), Broadcast("b", 1), Broadcast("b", 7)});
  EXPECT_EQ(MismatchText(asked, RankNames({2, 4, 6})),
            "broadcast 'b': ranks disagree on root rank: rank 2: 2; rank 4: 4; rank 6: 7. Submit "
            "the same root rank on every rank.");
}

TEST(RequestValidator, WhoDidNotAskIsAbsent) {
  SubtreeRequest asked = Asked({Allreduce("x"), Allreduce("x"), Allreduce("x")});
  Response response = Decide(asked, 5, {});
  EXPECT_TRUE(response.error.ok());
  EXPECT_EQ(response.absent.ToString(), "3-4");
  asked.variants[0].params.kind = OpKind::kAlltoall;
  asked.variants[0].params.shape = {0};
  response = Decide(asked, 4, RankNames({1, 2, 3, 9}));
  EXPECT_EQ(response.error.message(),
            "alltoall 'x': rank 9 has joined, and only an allreduce goes on without it. Let every "
            "rank submit its other operations before it joins.");
  EXPECT_EQ(response.absent, RankSet::Of(3));
}

TEST(RequestValidator, EachKindTakesWhatItCan) {
  const auto problem = [](OpParams params) {
    const Request request{.name = "t", .params = std::move(params)};
    return Decided({request, request}).error.message();
  };
  EXPECT_EQ(problem({.kind = OpKind::kReducescatter}),
            "reducescatter 't': a tensor without dimensions has no rows to scatter; use allreduce");
  EXPECT_EQ(problem({.kind = OpKind::kReducescatter, .shape = {4}, .rest = {{.shape = {}}}}),
            "reducescatter 't' (tensor 2 of 2): a tensor without dimensions has no rows to "
            "scatter; use allreduce");
  EXPECT_EQ(problem({.kind = OpKind::kAlltoall}),
            "alltoall 't': a tensor without dimensions has no rows to send; reshape it to [1]");
  EXPECT_EQ(problem({.dtype = DType::kInt32, .reduce_op = ReduceOp::kAdasum}),
            "allreduce 't': dtype int32 cannot be reduced by adasum; convert the tensor first");
  EXPECT_EQ(problem({.dtype = DType::kBool, .reduce_op = ReduceOp::kAverage}),
            "allreduce 't': dtype bool cannot be reduced by average; convert the tensor first");
  EXPECT_EQ(problem({.dtype = DType::kBFloat16, .reduce_op = ReduceOp::kAdasum}), "");
  EXPECT_EQ(problem({.kind = OpKind::kReducescatter, .reduce_op = ReduceOp::kAdasum, .shape = {4}}),
            "reducescatter 't': there is no adasum whose result is parted");
}

TEST(RequestValidator, SeveralAspectsAndDifferentOperations) {
  EXPECT_EQ(Mismatch({Allreduce("w", {4}),
                      Changed(Allreduce("w", {5}), [](OpParams& p) { p.dtype = DType::kInt32; })}),
            "allreduce 'w': ranks disagree on dtype: rank 0: float32; rank 1: int32; and on shape: "
            "rank 0: [4]; rank 1: [5]. Submit the same dtype and shape on every rank.");
  EXPECT_EQ(
      Mismatch({Allreduce("w"), Broadcast("w", 0)}),
      "'w': ranks disagree on operation: rank 0: allreduce; rank 1: broadcast. Submit the same "
      "operation on every rank.");
}

TEST(RequestValidator, TheTextIsShortForManyRanksAndValues) {
  std::vector<Request> by_rank;
  for (int rank = 0; rank < 1024; ++rank) {
    Request request = Allreduce(std::string(kMaxNameBytes, 'n'), {rank % 2 == 0 ? 1 : rank});
    request.params.shape = Shape(std::vector<std::int64_t>(kMaxDimensions, 1000000 + rank % 300));
    request.params.dtype = rank % 2 == 0 ? DType::kFloat32 : DType::kFloat64;
    by_rank.push_back(std::move(request));
  }
  const std::string text = Mismatch(by_rank);
  EXPECT_LT(text.size(), 4096u);
  EXPECT_NE(text.find("other values"), std::string::npos);
}

TEST(RequestValidator, WhatAllAskForMustBePossible) {
  Response response = Decided({Broadcast("b", 2), Broadcast("b", 2)});
  EXPECT_EQ(response.error.code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(response.error.message(), "broadcast 'b': root rank 2 is not between 0 and 1");
  Request scalar = Changed(Allgather("x", 0), [](OpParams& p) { p.shape = {}; });
  EXPECT_EQ(Decided({scalar, scalar}).error.code(), StatusCode::kInvalidArgument);
  Request complex = Changed(Allreduce("c"), [](OpParams& p) { p.dtype = DType::kComplex64; });
  EXPECT_TRUE(Decided({complex, complex}).error.ok());
  complex.params.reduce_op = ReduceOp::kMax;
  EXPECT_EQ(Decided({complex, complex}).error.message(),
            "allreduce 'c': dtype complex64 cannot be reduced by max; convert the tensor first");
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  response = Decided({Allgather("x", huge), Allgather("x", huge)});
  EXPECT_EQ(response.error.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(response.first_dims.empty());
}

TEST(RequestValidator, WhatTheWireWouldRefuseIsRefusedHere) {
  EXPECT_TRUE(CheckRequest(Allreduce("w")).ok());
  EXPECT_FALSE(CheckRequest(Allreduce(std::string(kMaxNameBytes + 1, 'n'))).ok());
  EXPECT_FALSE(CheckRequest(Allreduce("w", {-1})).ok());
  EXPECT_FALSE(CheckRequest(Allgather("w", -1)).ok());
  EXPECT_FALSE(CheckRequest(Allreduce(std::string(kJoinName))).ok());
  EXPECT_FALSE(CheckRequest({.name = "w", .params = {.kind = OpKind::kJoin}}).ok());
  EXPECT_TRUE(
      CheckRequest({.name = std::string(kJoinName), .params = {.kind = OpKind::kJoin}}).ok());
  EXPECT_EQ(CheckRequest(Group({{1}, {2}, {-1}})).message(),
            "allreduce 'g' (tensor 3 of 3): shape [-1]");
  EXPECT_TRUE(CheckRequest(Group(std::vector<Shape>(kMaxGroupTensors))).ok());
  EXPECT_FALSE(CheckRequest(Group(std::vector<Shape>(kMaxGroupTensors + 1))).ok());
  EXPECT_FALSE(
      CheckRequest(Changed(Broadcast("b", 0), [](OpParams& p) { p.rest.emplace_back(); })).ok());
  EXPECT_FALSE(CheckRequest(Changed(Allgather("w", 1), [](OpParams& p) {
                 p.rest.push_back({.shape = {0}});
               })).ok());
  const std::vector<std::int64_t> many(kMaxDimensions + 1, 1);
  EXPECT_FALSE(CheckRequest(Allreduce("w", Shape(many))).ok());
  EXPECT_FALSE(CheckRequest(Changed(Allreduce("w"), [](OpParams& p) {
                 p.postscale = std::numeric_limits<double>::infinity();
               })).ok());
}

}  // namespace
}  // namespace hora
