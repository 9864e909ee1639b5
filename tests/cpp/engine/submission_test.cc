#include "hora/engine/submission.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

namespace hora {
namespace {

TensorView ViewOf(Shape shape, DType dtype = DType::kFloat32) {
  return {.data = nullptr, .dtype = dtype, .device = {}, .shape = std::move(shape)};
}

TensorEntry EntryOf(OpKind kind, Shape shape, DType dtype = DType::kFloat32) {
  TensorEntry entry;
  entry.request.name = "x";
  entry.request.params.kind = kind;
  entry.request.params.dtype = dtype;
  entry.request.params.shape = shape;
  entry.input = entry.output = ViewOf(std::move(shape), dtype);
  return entry;
}

TensorEntry AlltoallOf(Shape shape, std::vector<std::int64_t> splits) {
  TensorEntry entry = EntryOf(OpKind::kAlltoall, std::move(shape));
  entry.splits = std::move(splits);
  return entry;
}

void ExpectRefused(const TensorEntry& entry, std::vector<std::string> parts, int rank = 0,
                   int size = 3, const RankNames& names = {}) {
  const Status status = CheckSubmission(entry, rank, size, names);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  parts.push_back("'x': ");
  for (const std::string& part : parts) {
    EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
  }
}

TEST(CheckSubmission, AlltoallNeedsOneSplitPerRankThatAddUp) {
  EXPECT_TRUE(CheckSubmission(AlltoallOf({6, 2}, {1, 2, 3}), 0, 3).ok());
  EXPECT_TRUE(CheckSubmission(AlltoallOf({0}, {0, 0, 0}), 0, 3).ok());
  ExpectRefused(AlltoallOf({6, 2}, {3, 3}), {"[3, 3]", "2 numbers", "3 ranks"});
  ExpectRefused(AlltoallOf({6, 2}, {1, 2, 2}), {"[1, 2, 2]", "adds up to 5", "[6, 2]", "6 rows"});
  ExpectRefused(AlltoallOf({6, 2}, {7, -1, 0}), {"-1 rows to rank 5"}, 0, 3, RankNames({1, 5, 9}));
  constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();
  ExpectRefused(AlltoallOf({6, 2}, {kHuge, kHuge, 8}), {"6 rows"});
  ExpectRefused(AlltoallOf({}, {1, 1, 1}), {"no dimensions"});
}

TEST(CheckSubmission, ReducescatterNeedsRowsAndAnOutputOfThisRanksShare) {
  TensorEntry entry = EntryOf(OpKind::kReducescatter, {7, 2});
  entry.output = ViewOf({3, 2});
  EXPECT_TRUE(CheckSubmission(entry, 0, 3).ok()) << CheckSubmission(entry, 0, 3).ToString();
  ExpectRefused(entry, {"[3, 2]", "[2, 2]"}, 1);
  entry.request.params.reduce_op = ReduceOp::kAdasum;
  ExpectRefused(entry, {"Adasum", "allreduce only"});
  ExpectRefused(EntryOf(OpKind::kReducescatter, {}), {"no dimensions"});
}

TEST(CheckSubmission, AdasumTakesFloatingPointOnly) {
  TensorEntry entry = EntryOf(OpKind::kAllreduce, {4}, DType::kInt32);
  entry.request.params.reduce_op = ReduceOp::kAdasum;
  ExpectRefused(entry, {"int32", "float16, bfloat16, float32 and float64"});
  entry = EntryOf(OpKind::kAllreduce, {4}, DType::kBFloat16);
  entry.request.params.reduce_op = ReduceOp::kAdasum;
  EXPECT_TRUE(CheckSubmission(entry, 0, 3).ok());
}

TEST(CheckSubmission, AGroupsTensorIsNamedByItsNumber) {
  TensorEntry entry = EntryOf(OpKind::kAllreduce, {4});
  entry.request.params.reduce_op = ReduceOp::kAverage;
  entry.request.params.rest.push_back({DType::kBool, {2}});
  entry.rest.push_back({ViewOf({2}, DType::kBool), ViewOf({2}, DType::kBool)});
  ExpectRefused(entry, {"tensor 2 of 2", "bool", "average"});
  entry.request.params.reduce_op = ReduceOp::kSum;
  EXPECT_TRUE(CheckSubmission(entry, 0, 3).ok());
  entry.rest.front().output = ViewOf({3}, DType::kBool);
  ExpectRefused(entry, {"output of tensor 2 of 2", "[3]", "[2]"});
}

TEST(CheckSubmission, WhatCannotBeGroupedSaysSo) {
  TensorEntry entry = EntryOf(OpKind::kBroadcast, {4});
  entry.request.params.root_rank = 0;
  EXPECT_TRUE(CheckSubmission(entry, 0, 3).ok());
  entry.request.params.rest.push_back({DType::kFloat32, {2}});
  entry.rest.push_back({ViewOf({2}), ViewOf({2})});
  ExpectRefused(entry, {"2 tensors at once", "one tensor"});
  entry.rest.clear();
  EXPECT_EQ(CheckSubmission(entry, 0, 3).code(), StatusCode::kInternal);
}

TEST(CheckSubmission, NamesRootsAndDevicesAreChecked) {
  TensorEntry entry = EntryOf(OpKind::kBroadcast, {4});
  entry.request.params.root_rank = 3;
  ExpectRefused(entry, {"root_rank 3", "0 to 2"});
  entry = EntryOf(OpKind::kAllreduce, {4});
  entry.request.name = "";
  EXPECT_EQ(CheckSubmission(entry, 0, 3).code(), StatusCode::kInvalidArgument);
  entry = EntryOf(OpKind::kJoin, {});
  ExpectRefused(entry, {"'join.noname'", "of joins"});
  entry.request.name = kJoinName;
  EXPECT_TRUE(CheckSubmission(entry, 0, 3).ok());
}

TEST(CheckSubmission, AllTensorsAreOnOneDevice) {
  std::byte memory[16];
  const auto on = [&](DeviceType type, std::int16_t index) {
    TensorView view = ViewOf({4});
    view.data = memory;
    view.device = {type, index};
    return view;
  };
  TensorEntry entry = EntryOf(OpKind::kAllreduce, {4});
  entry.request.params.device = {DeviceType::kCuda, 1};
  entry.input = entry.output = on(DeviceType::kCuda, 1);
  EXPECT_TRUE(CheckSubmission(entry, 0, 3).ok());
  entry.output = on(DeviceType::kCpu, 0);
  ExpectRefused(entry, {"the output of the tensor is on cpu", "the operation on cuda:1"});
  entry.output = on(DeviceType::kCuda, 1);
  entry.request.params.rest.push_back({DType::kFloat32, {4}});
  entry.rest.push_back({on(DeviceType::kCuda, 0), on(DeviceType::kCuda, 1)});
  ExpectRefused(entry, {"tensor 2 of 2 is on cuda:0", "the operation on cuda:1"});
  entry.rest[0].input = ViewOf({4});
  EXPECT_TRUE(CheckSubmission(entry, 0, 3).ok()) << "what has no memory is nowhere";
}

}  // namespace
}  // namespace hora
