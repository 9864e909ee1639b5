#include "hora/collectives/adasum.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "collectives/operands.h"
#include "hora/base/check.h"

namespace hora {
namespace {

using Vector = std::vector<double>;

// One tensor of two ranks, straight from the paper's formula.
Vector Combined(const Vector& a, const Vector& b) {
  const auto dot = [](const Vector& x, const Vector& y) {
    return std::inner_product(x.begin(), x.end(), y.begin(), 0.0);
  };
  const double ab = dot(a, b), aa = dot(a, a), bb = dot(b, b);
  Vector result(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    result[i] = (aa == 0 ? 1 : 1 - ab / (2 * aa)) * a[i] + (bb == 0 ? 1 : 1 - ab / (2 * bb)) * b[i];
  }
  return result;
}

Vector Reference(std::vector<Vector> ranks) {
  while (ranks.size() > 1) {
    std::vector<Vector> next;
    for (std::size_t i = 0; i + 1 < ranks.size(); i += 2) {
      next.push_back(Combined(ranks[i], ranks[i + 1]));
    }
    if (ranks.size() % 2 == 1) next.push_back(ranks.back());
    ranks = std::move(next);
  }
  return ranks[0];
}

Bytes Stored(DType dtype, const Vector& values) {
  Bytes bytes(values.size() * SizeOf(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::byte* const to = bytes.data() + i * SizeOf(dtype);
    const auto narrow = static_cast<float>(values[i]);
    if (dtype == DType::kFloat16) StoreAs(FloatToHalf(narrow), to);
    if (dtype == DType::kBFloat16) StoreAs(FloatToBFloat16(narrow), to);
    if (dtype == DType::kFloat32) StoreAs(narrow, to);
    if (dtype == DType::kFloat64) StoreAs(values[i], to);
  }
  return bytes;
}

template <class T>
T LoadAs(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

Vector Loaded(DType dtype, const Bytes& bytes) {
  Vector values;
  for (std::size_t at = 0; at < bytes.size(); at += SizeOf(dtype)) {
    const std::byte* const from = bytes.data() + at;
    if (dtype == DType::kFloat16) values.push_back(HalfToFloat(LoadAs<std::uint16_t>(from)));
    if (dtype == DType::kBFloat16) values.push_back(BFloat16ToFloat(LoadAs<std::uint16_t>(from)));
    if (dtype == DType::kFloat32) values.push_back(LoadAs<float>(from));
    if (dtype == DType::kFloat64) values.push_back(LoadAs<double>(from));
  }
  return values;
}

double StepOf(DType dtype) {
  if (dtype == DType::kFloat16) return 0x1p-10;
  if (dtype == DType::kBFloat16) return 0x1p-7;
  return dtype == DType::kFloat32 ? 0x1p-22 : 0x1p-50;
}

// batch[rank][tensor]
using Batch = std::vector<std::vector<Vector>>;

struct Options {
  OpParams params = Params(DType::kFloat32, ReduceOp::kAdasum);
  RankSet absent;
  int pieces = 1;
  bool in_place = true;
};

Vector Joined(const std::vector<Vector>& tensors) {
  Vector all;
  for (const Vector& tensor : tensors) all.insert(all.end(), tensor.begin(), tensor.end());
  return all;
}

// Runs the batch; checks that every rank has the same bits and returns them.
Bytes Combine(ShmGroup& group, const Batch& batch, const Options& options) {
  const DType dtype = options.params.dtype;
  std::vector<Bytes> results(batch.size());
  group.RunOk([&](int rank, ShmBackend& backend) {
    const Bytes operand = Stored(dtype, Joined(batch[rank]));
    Pieces in(operand, options.pieces, SizeOf(dtype), 1);
    Pieces out(Bytes(operand.size()), options.pieces, SizeOf(dtype), 2);
    CollectiveCall call = AllreduceCall(options.params, group.size(), in.Stream(),
                                        options.in_place ? in.Stream() : out.Stream());
    call.absent = options.absent;
    for (const Vector& tensor : batch[rank]) {
      call.tensor_bytes.push_back(tensor.size() * SizeOf(dtype));
    }
    Status status = RunAdasum(backend, rank, call);
    results[rank] = options.in_place ? in.Contents() : out.Contents();
    EXPECT_TRUE(options.in_place || in.Contents() == operand) << "the input changed";
    return status;
  });
  for (const Bytes& result : results) EXPECT_TRUE(result == results[0]) << "ranks differ";
  return results[0];
}

Batch RandomBatch(int ranks, const std::vector<std::size_t>& sizes, DType dtype,
                  std::uint64_t seed) {
  Random random(seed);
  std::normal_distribution<double> normal;
  Batch batch(ranks);
  for (auto& tensors : batch) {
    for (const std::size_t elements : sizes) {
      Vector tensor(elements);
      for (double& x : tensor) x = normal(random) + 0.5;  // neither parallel nor orthogonal
      tensors.push_back(Loaded(dtype, Stored(dtype, tensor)));
    }
  }
  return batch;
}

void ExpectReference(const Batch& batch, const Options& options, const Bytes& result) {
  const OpParams& params = options.params;
  const Vector got = Loaded(params.dtype, result);
  std::size_t at = 0;
  for (std::size_t t = 0; t < batch[0].size(); ++t) {
    std::vector<Vector> operands;
    for (std::size_t rank = 0; rank < batch.size(); ++rank) {
      if (options.absent.Contains(static_cast<int>(rank))) continue;
      operands.push_back(batch[rank][t]);
      for (double& x : operands.back()) x *= params.prescale;
    }
    for (double expected : Reference(operands)) {
      expected *= params.postscale;
      const double tolerance = StepOf(params.dtype) * (4 + std::abs(expected));
      ASSERT_NEAR(got[at], expected, tolerance) << "tensor " << t << ", element " << at;
      ++at;
    }
  }
  EXPECT_EQ(at, got.size());
}

class Adasum : public testing::TestWithParam<int> {};

TEST_P(Adasum, IsTheTreeOfThePaperForEachTensor) {
  ShmGroup group(GetParam(), 1024);
  std::uint64_t seed = 0;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16, DType::kBFloat16}) {
    for (const std::vector<std::size_t>& sizes : std::vector<std::vector<std::size_t>>{
             {1000}, {1}, {2, 1, 0, 3}, {17, 400, 1, 5, 2049}, {0}, {}}) {
      Options options;
      options.params.dtype = dtype;
      options.pieces = 1 + static_cast<int>(seed % 9);
      options.in_place = seed % 2 == 0;
      const Batch batch = RandomBatch(GetParam(), sizes, dtype, ++seed);
      ExpectReference(batch, options, Combine(group, batch, options));
    }
  }
}

TEST_P(Adasum, ScalesBeforeAndAfter) {
  ShmGroup group(GetParam(), 1024);
  Options options;
  options.params.prescale = 0.25;
  options.params.postscale = 3;
  const Batch batch = RandomBatch(GetParam(), {40, 300}, DType::kFloat32, 5);
  ExpectReference(batch, options, Combine(group, batch, options));
}

TEST_P(Adasum, AddsOrthogonalVectors) {
  const int size = GetParam();
  ShmGroup group(size, 1024);
  Batch batch(size, {Vector(3 * size), Vector(size)});
  for (int rank = 0; rank < size; ++rank) {
    batch[rank][0][3 * rank + 1] = rank + 1.5;
    batch[rank][1][rank] = -2;
  }
  const Vector result = Loaded(DType::kFloat32, Combine(group, batch, {}));
  for (int i = 0; i < 3 * size; ++i) EXPECT_EQ(result[i], i % 3 == 1 ? i / 3 + 1.5 : 0.0);
  for (int i = 0; i < size; ++i) EXPECT_EQ(result[3 * size + i], -2);
}

TEST_P(Adasum, AveragesEqualVectors) {
  ShmGroup group(GetParam(), 1024);
  const Vector first = {1, -2, 4, 0.5}, second = {8, 0, 0, 0, 16};
  const Batch batch(GetParam(), {first, second});
  EXPECT_EQ(Loaded(DType::kFloat32, Combine(group, batch, {})), Joined({first, second}));
}

TEST_P(Adasum, IsTheSameInEveryRun) {
  ShmGroup group(GetParam(), 512);
  const Batch batch = RandomBatch(GetParam(), {1000, 3, 777}, DType::kFloat32, 9);
  const Bytes first = Combine(group, batch, {});
  for (const std::uint64_t chunk : {64, 128, 512}) {
    group.Retune({.chunk_bytes = chunk});
    Options options;
    options.pieces = 5;
    EXPECT_TRUE(Combine(group, batch, options) == first);
  }
}

TEST_P(Adasum, IgnoresARankThatBringsZeros) {
  const int size = GetParam();
  if (size == 1) return;
  ShmGroup group(size, 1024);
  // Of equal vectors every tree makes the same; a zero that counted would halve it somewhere.
  const Vector vector = {3, -1, 2, 2, 7};
  for (int rank = 0; rank < size; ++rank) {
    Batch batch(size, {vector});
    batch[rank] = {Vector(vector.size())};
    EXPECT_EQ(Loaded(DType::kFloat32, Combine(group, batch, {})), vector);
  }
}

TEST_P(Adasum, StandsAbsentRanksOutsideOfTheTree) {
  const int size = GetParam();
  ShmGroup group(size, 1024);
  for (int rank = 0; rank < size && size > 1; ++rank) {
    Batch batch = RandomBatch(size, {33, 1, 500}, DType::kFloat32, 60 + rank);
    for (Vector& tensor : batch[rank]) {
      std::ranges::fill(tensor, std::numeric_limits<double>::quiet_NaN());
    }
    Options options;
    options.absent = RankSet::Of(rank);
    options.in_place = rank % 2 == 0;
    ExpectReference(batch, options, Combine(group, batch, options));
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, Adasum, testing::Values(1, 2, 3, 4, 5, 8),
                         testing::PrintToStringParamName());

// Of a and c·a the rule makes (1 + c) / 2 · a.
TEST(AdasumOfTwo, AveragesParallelVectors) {
  ShmGroup group(2, 1024);
  const Batch batch = {{{2, 4, -6}}, {{6, 12, -18}}};
  EXPECT_EQ(Loaded(DType::kFloat32, Combine(group, batch, {})), (Vector{4, 8, -12}));
}

TEST(AdasumOfTwo, TakesItsTurnAmongOtherCollectives) {
  ShmGroup group(2, 256);
  group.RunOk([](int rank, ShmBackend& backend) {
    for (int round = 0; round < 50; ++round) {
      std::vector<float> ours(100, 1.0f), sum(100, static_cast<float>(rank));
      const auto stream = [](std::vector<float>& of) {
        return ByteStream({std::as_writable_bytes(std::span(of))});
      };
      CollectiveCall adasum =
          AllreduceCall(Params(DType::kFloat32, ReduceOp::kAdasum), 2, stream(ours), stream(ours));
      adasum.tensor_bytes = {400};
      if (Status status = RunAdasum(backend, rank, adasum); !status.ok()) return status;
      CollectiveCall plain =
          AllreduceCall(Params(DType::kFloat32, ReduceOp::kSum), 2, stream(sum), stream(sum));
      if (Status status = backend.Execute(plain); !status.ok()) return status;
      EXPECT_EQ(ours, std::vector<float>(100, 1.0f));
      EXPECT_EQ(sum, std::vector<float>(100, 1.0f));
    }
    return Status::Ok();
  });
}

TEST(AdasumFailure, IsThatOfTheBackend) {
  ShmGroup group(3, 256, std::chrono::milliseconds(150));
  const auto statuses = group.Run([](int rank, ShmBackend& backend) {
    if (rank == 2) return Status::Ok();
    std::vector<float> ours(100);
    const ByteStream stream({std::as_writable_bytes(std::span(ours))});
    CollectiveCall call =
        AllreduceCall(Params(DType::kFloat32, ReduceOp::kAdasum), 3, stream, stream);
    call.tensor_bytes = {400};
    return RunAdasum(backend, rank, call);
  });
  for (const int rank : {0, 1}) {
    EXPECT_EQ(statuses[rank].code(), StatusCode::kStalled);
    EXPECT_NE(statuses[rank].message().find("rank 2 ("), std::string::npos)
        << statuses[rank].message();
  }
}

TEST(AdasumChecks, WhatItIsCalledWith) {
  ShmGroup group(1, 256);
  group.RunOk([](int, ShmBackend& backend) {
    std::vector<float> ours(4);
    const ByteStream stream({std::as_writable_bytes(std::span(ours))});
    const auto call = [&](DType dtype, std::vector<std::uint64_t> tensor_bytes) {
      CollectiveCall made = AllreduceCall(Params(dtype, ReduceOp::kAdasum), 1, stream, stream);
      made.tensor_bytes = std::move(tensor_bytes);
      return made;
    };
    CollectiveCall wrong_type = call(DType::kInt32, {16});
    CollectiveCall short_tensors = call(DType::kFloat32, {12});
    CollectiveCall right = call(DType::kFloat32, {16});
    EXPECT_THROW((void)RunAdasum(backend, 0, wrong_type), InvariantError);
    EXPECT_THROW((void)RunAdasum(backend, 0, short_tensors), InvariantError);
    EXPECT_THROW((void)backend.Execute(right), InvariantError);
    return RunAdasum(backend, 0, right);
  });
}

}  // namespace
}  // namespace hora
