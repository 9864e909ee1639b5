// The enumerations that travel on the wire: numbers, names, sizes.
#include "hora/tensor/dtype.h"

#include <gtest/gtest.h>

#include <set>
#include <string_view>
#include <vector>

#include "hora/base/check.h"
#include "hora/tensor/device.h"
#include "hora/tensor/op_kind.h"
#include "hora/tensor/reduce_op.h"

namespace hora {
namespace {

TEST(DType, HasSizesAndPyTorchsNames) {
  EXPECT_EQ(SizeOf(DType::kUInt8), 1u);
  EXPECT_EQ(SizeOf(DType::kInt16), 2u);
  EXPECT_EQ(SizeOf(DType::kInt64), 8u);
  EXPECT_EQ(SizeOf(DType::kFloat16), 2u);
  EXPECT_EQ(SizeOf(DType::kBFloat16), 2u);
  EXPECT_EQ(SizeOf(DType::kFloat32), 4u);
  EXPECT_EQ(SizeOf(DType::kBool), 1u);
  EXPECT_EQ(SizeOf(DType::kComplex64), 8u);
  EXPECT_EQ(SizeOf(DType::kComplex128), 16u);
  EXPECT_EQ(SizeOf(DType::kFloat8E8M0FNU), 1u);
  EXPECT_EQ(SizeOf(DType::kComplex32), 4u);
  EXPECT_EQ(ToString(DType::kInt64), "int64");
  EXPECT_EQ(ToString(DType::kBFloat16), "bfloat16");
  EXPECT_EQ(ToString(DType::kFloat8E4M3FNUZ), "float8_e4m3fnuz");
}

TEST(DType, NumbersAreThoseOfTheWire) {
  EXPECT_EQ(static_cast<int>(DType::kUInt8), 0);
  EXPECT_EQ(static_cast<int>(DType::kInt64), 7);
  EXPECT_EQ(static_cast<int>(DType::kFloat32), 10);
  EXPECT_EQ(static_cast<int>(DType::kBool), 12);
  EXPECT_EQ(static_cast<int>(DType::kComplex32), kDTypeCount - 1);
}

TEST(DType, NamesAreDistinct) {
  std::set<std::string_view> names;
  for (int i = 0; i < kDTypeCount; ++i) names.insert(ToString(static_cast<DType>(i)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kDTypeCount));
  EXPECT_EQ(names.count(""), 0u);
}

TEST(DType, KnowsWhatCanBeReduced) {
  int reducible = 0;
  int floating = 0;
  for (int i = 0; i < kDTypeCount; ++i) {
    reducible += IsReducible(static_cast<DType>(i)) ? 1 : 0;
    floating += IsFloatingPoint(static_cast<DType>(i)) ? 1 : 0;
  }
  EXPECT_EQ(reducible, 13);
  EXPECT_EQ(floating, 4);
  EXPECT_TRUE(IsReducible(DType::kBool));
  EXPECT_FALSE(IsReducible(DType::kComplex64));
  EXPECT_TRUE(IsFloatingPoint(DType::kFloat16));
  EXPECT_FALSE(IsFloatingPoint(DType::kFloat8E5M2));
}

TEST(DType, KnowsWhatEachReductionTakes) {
  using Ops = std::vector<ReduceOp>;
  const Ops elementwise = {ReduceOp::kAverage, ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax,
                           ReduceOp::kProduct};
  const auto takes = [](DType dtype) {
    Ops ops;
    for (int op = 0; op <= static_cast<int>(ReduceOp::kProduct); ++op) {
      if (IsReducible(dtype, static_cast<ReduceOp>(op))) ops.push_back(static_cast<ReduceOp>(op));
    }
    return ops;
  };
  for (const DType dtype : {DType::kUInt8, DType::kInt64, DType::kUInt64, DType::kFloat8E4M3FN,
                            DType::kFloat8E4M3FNUZ, DType::kFloat8E5M2, DType::kFloat8E5M2FNUZ}) {
    EXPECT_EQ(takes(dtype), elementwise) << ToString(dtype);
  }
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    EXPECT_EQ(takes(dtype).size(), 6u) << ToString(dtype);
  }
  EXPECT_EQ(takes(DType::kBool),
            (Ops{ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax, ReduceOp::kProduct}));
  EXPECT_EQ(takes(DType::kComplex64), (Ops{ReduceOp::kAverage, ReduceOp::kSum}));
  EXPECT_EQ(takes(DType::kComplex128), takes(DType::kComplex64));
  EXPECT_EQ(takes(DType::kFloat8E8M0FNU), Ops{});
  EXPECT_EQ(takes(DType::kComplex32), Ops{});
}

TEST(DType, RefusesANumberThatIsNone) {
  EXPECT_THROW(SizeOf(static_cast<DType>(kDTypeCount)), InvariantError);
  EXPECT_THROW(ToString(static_cast<DType>(255)), InvariantError);
}

TEST(Device, PrintsAsPyTorchDoes) {
  EXPECT_EQ(Device{}.ToString(), "cpu");
  EXPECT_EQ((Device{DeviceType::kCuda, 1}).ToString(), "cuda:1");
}

TEST(OpKind, HasNames) {
  EXPECT_EQ(ToString(OpKind::kAllreduce), "allreduce");
  EXPECT_EQ(ToString(OpKind::kAllgather), "allgather");
  EXPECT_EQ(ToString(OpKind::kBroadcast), "broadcast");
  EXPECT_EQ(ToString(OpKind::kBarrier), "barrier");
  EXPECT_EQ(ToString(OpKind::kAlltoall), "alltoall");
  EXPECT_EQ(ToString(OpKind::kReducescatter), "reducescatter");
  EXPECT_EQ(ToString(OpKind::kJoin), "join");
  EXPECT_EQ(static_cast<int>(OpKind::kBarrier), 3);
  EXPECT_EQ(static_cast<int>(OpKind::kJoin), kOpKindCount - 1);
}

TEST(ReduceOp, HasHorovodsNumbersAndNames) {
  EXPECT_EQ(static_cast<int>(ReduceOp::kAverage), 0);
  EXPECT_EQ(static_cast<int>(ReduceOp::kSum), 1);
  EXPECT_EQ(static_cast<int>(ReduceOp::kAdasum), 2);
  EXPECT_EQ(static_cast<int>(ReduceOp::kMin), 3);
  EXPECT_EQ(static_cast<int>(ReduceOp::kMax), 4);
  EXPECT_EQ(static_cast<int>(ReduceOp::kProduct), 5);
  EXPECT_EQ(ToString(ReduceOp::kAverage), "average");
  EXPECT_EQ(ToString(ReduceOp::kProduct), "product");
}

}  // namespace
}  // namespace hora
