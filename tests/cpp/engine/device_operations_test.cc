// Every kind of operation on GPU tensors, by each way that they may take, against the same on the
// CPU.
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "engine/device_job.h"
#include "hora/fusion/fusion_plan.h"

namespace hora {
namespace {

using testing::DeviceJob;
using testing::FakeNccl;
using testing::FloatsOf;
using testing::RankContext;

struct Way {
  const char* name;
  const char* backend;
  int ranks;
  int devices;
  std::vector<int> hosts = {};
};

const Way kWays[] = {
    {"NcclAlone", "auto", 1, 1},
    {"NcclOfTwo", "auto", 2, 2},
    {"NcclOfFour", "nccl", 4, 4},
    {"StagedAlone", "staged", 1, 1},
    {"StagedOnOneDevice", "auto", 3, 1},
    {"StagedOnTheirOwn", "staged", 2, 2},
    {"StagedOverTwoHosts", "staged", 3, 3, {2, 1}},
    {"LayersOverTwoHosts", "auto", 3, 3, {2, 1}},
    {"NcclOverTwoHosts", "nccl", 3, 3, {2, 1}},
};

class DeviceOperations : public ::testing::TestWithParam<Way> {
 protected:
  // `body(cpu, gpu)`: the same rank, once for each kind of memory.
  void Run(const std::function<void(RankContext&, RankContext&)>& body, bool in_layers = false) {
    const Way& way = GetParam();
    DeviceJob job(way.ranks, way.devices, way.backend);
    job.options().hosts = way.hosts;
    const int before = FakeNccl().operations;
    job.Run([&](RankContext& self) {
      RankContext gpu = self.OnDevice();
      body(self, gpu);
    });
    const std::string name = way.name;
    if (name.starts_with("Layers") && !in_layers) return;
    if (!name.starts_with("Staged") && way.ranks > 1) {
      EXPECT_GT(FakeNccl().operations, before);
    } else {
      EXPECT_EQ(FakeNccl().operations, before);
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Ways, DeviceOperations, ::testing::ValuesIn(kWays),
                         [](const auto& test) { return std::string(test.param.name); });

// Small whole numbers, whose sums are exact in any order.
std::vector<float> Numbers(std::size_t count, int rank) {
  std::mt19937 random(static_cast<unsigned>(rank) + 1);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random() % 9) + 1;
  return values;
}

// Means of more than two may be rounded differently, by the way they take.
void ExpectClose(const std::vector<float>& values, const std::vector<float>& expected) {
  ASSERT_EQ(values.size(), expected.size());
  for (std::size_t i = 0; i < values.size(); ++i) ASSERT_FLOAT_EQ(values[i], expected[i]) << i;
}

template <class T>
std::span<std::byte> BytesOf(std::vector<T>& values) {
  return std::as_writable_bytes(std::span(values));
}

void ExpectOk(RankContext& self, const std::shared_ptr<Handle>& handle) {
  const Status status = self.Wait(handle);
  EXPECT_TRUE(status.ok()) << status.ToString();
}

TEST_P(DeviceOperations, Allreduce) {
  Run(
      [](RankContext& cpu, RankContext& gpu) {
        for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kAverage, ReduceOp::kMin,
                                  ReduceOp::kMax, ReduceOp::kProduct}) {
          for (const std::size_t count : {1u, 0u, 5000u, 100'001u}) {
            std::vector<float> expected = Numbers(count, cpu.rank());
            std::vector<float> values = expected;
            ExpectOk(cpu, cpu.Allreduce("cpu", expected, op));
            ExpectOk(gpu, gpu.Allreduce("gpu", values, op));
            ExpectClose(values, expected);
          }
        }
      },
      /*in_layers=*/true);
}

TEST_P(DeviceOperations, AllreduceOfOtherTypesAndScales) {
  Run([](RankContext& cpu, RankContext& gpu) {
    const auto both = [&](DType dtype, ReduceOp op, double scale, auto values) {
      Request request{.name = "cpu",
                      .params = {.kind = OpKind::kAllreduce,
                                 .dtype = dtype,
                                 .reduce_op = op,
                                 .shape = Shape{static_cast<std::int64_t>(values.size())}},
                      .first_dims = {}};
      request.params.prescale = scale;
      auto expected = values;
      ExpectOk(cpu, cpu.Submit(request, BytesOf(expected), BytesOf(expected)));
      request.name = "gpu";
      ExpectOk(gpu, gpu.Submit(request, BytesOf(values), BytesOf(values)));
      EXPECT_EQ(values, expected);
    };
    std::vector<std::int64_t> integers(777);
    std::iota(integers.begin(), integers.end(), cpu.rank());
    both(DType::kInt64, ReduceOp::kAverage, 1.0, integers);
    both(DType::kInt64, ReduceOp::kSum, 1.0, integers);
    const std::vector<std::uint16_t> halves(99, 0x4000);  // 2.0
    both(DType::kFloat16, ReduceOp::kSum, 1.0, halves);
    both(DType::kFloat16, ReduceOp::kAverage, 1.0, halves);
    both(DType::kFloat32, ReduceOp::kSum, 0.5, Numbers(1000, cpu.rank()));
  });
}

TEST_P(DeviceOperations, GroupsAndManyAtOnce) {
  Run([](RankContext& cpu, RankContext& gpu) {
    std::vector<std::vector<float>> expected;
    for (const std::size_t count : {1u, 0u, 1000u, 70'000u}) {
      expected.push_back(Numbers(count, cpu.rank()));
    }
    std::vector<std::vector<float>> group = expected;
    std::vector<std::vector<float>> each = expected;
    ExpectOk(cpu, cpu.GroupedAllreduce("cpu", expected));
    const auto handle = gpu.GroupedAllreduce("gpu", group);
    std::vector<std::shared_ptr<Handle>> handles;
    for (std::size_t i = 0; i < each.size(); ++i) {
      handles.push_back(gpu.Allreduce("gpu." + std::to_string(i), each[i]));
    }
    ExpectOk(gpu, handle);
    for (const auto& one : handles) ExpectOk(gpu, one);
    EXPECT_EQ(group, expected);
    EXPECT_EQ(each, expected);
  });
}

TEST_P(DeviceOperations, Broadcast) {
  Run([](RankContext& cpu, RankContext& gpu) {
    const int root = cpu.size() - 1;
    std::vector<float> values = Numbers(30'000, cpu.rank());
    ExpectOk(gpu, gpu.Broadcast("gpu", values, root));
    EXPECT_EQ(values, Numbers(30'000, root));
  });
}

TEST_P(DeviceOperations, AllgatherOfDifferentRows) {
  Run([](RankContext& cpu, RankContext& gpu) {
    const auto count = static_cast<std::size_t>(cpu.rank()) * 1000;
    std::vector<float> rows = Numbers(count, cpu.rank());
    const auto expected = cpu.Allgather("cpu", rows);
    const auto gathered = gpu.Allgather("gpu", rows);
    ExpectOk(cpu, expected);
    ExpectOk(gpu, gathered);
    const Gathered& result = *gathered->gathered().at(0);
    EXPECT_EQ(result.rows_by_rank(), expected->gathered().at(0)->rows_by_rank());
    EXPECT_EQ(FloatsOf(result), FloatsOf(*expected->gathered().at(0)));
    EXPECT_EQ(result.device().type, DeviceType::kCuda);
    EXPECT_EQ(result.device().index, cpu.engine().device().index());
    EXPECT_NE(result.on_device(), nullptr);
  });
}

TEST_P(DeviceOperations, AlltoallBySplits) {
  Run([](RankContext& cpu, RankContext& gpu) {
    std::vector<std::int64_t> splits;
    for (int to = 0; to < cpu.size(); ++to) splits.push_back(100 * to + cpu.rank());
    const auto sum = std::accumulate(splits.begin(), splits.end(), std::int64_t{0});
    std::vector<float> rows = Numbers(static_cast<std::size_t>(sum), cpu.rank());
    const auto expected = cpu.Alltoall("cpu", rows, splits);
    const auto moved = gpu.Alltoall("gpu", rows, splits);
    ExpectOk(cpu, expected);
    ExpectOk(gpu, moved);
    EXPECT_EQ(moved->gathered().at(0)->rows_by_rank(), expected->gathered().at(0)->rows_by_rank());
    EXPECT_EQ(FloatsOf(*moved->gathered().at(0)), FloatsOf(*expected->gathered().at(0)));
  });
}

TEST_P(DeviceOperations, Reducescatter) {
  Run([](RankContext& cpu, RankContext& gpu) {
    std::vector<float> rows = Numbers(1001, cpu.rank());
    const auto share = static_cast<std::size_t>(RowsOfRank(1001, cpu.rank(), cpu.size()).count);
    std::vector<float> expected(share), mine(share);
    ExpectOk(cpu, cpu.Reducescatter("cpu", rows, expected, ReduceOp::kAverage));
    ExpectOk(gpu, gpu.Reducescatter("gpu", rows, mine, ReduceOp::kAverage));
    ExpectClose(mine, expected);
  });
}

TEST_P(DeviceOperations, RanksThatHaveJoinedTakePart) {
  Run([](RankContext& cpu, RankContext& gpu) {
    const bool joins = cpu.size() > 1 && cpu.rank() == cpu.size() - 1;
    for (int step = 0; !joins && step < 3; ++step) {
      std::vector<float> expected = Numbers(5000, cpu.rank());
      std::vector<float> values = expected;
      ExpectOk(cpu, cpu.Allreduce("cpu", expected, ReduceOp::kAverage));
      ExpectOk(gpu, gpu.Allreduce("gpu", values, ReduceOp::kAverage));
      ExpectClose(values, expected);
    }
    if (cpu.size() == 1) {
      std::vector<float> values(1);
      ExpectOk(gpu, gpu.Allreduce("gpu", values));
    }
    ExpectOk(cpu, cpu.Join());
  });
}

TEST_P(DeviceOperations, OnAPartOfTheRanks) {
  Run([](RankContext& cpu, RankContext& gpu) {
    std::vector<float> all(10, 1.0f);
    ExpectOk(gpu, gpu.Allreduce("all", all));
    std::vector<int> ranks(static_cast<std::size_t>(std::max(1, cpu.size() - 1)));
    std::iota(ranks.begin(), ranks.end(), cpu.size() == 1 ? 0 : 1);
    const int id = cpu.AddSet(ranks);
    if (std::ranges::find(ranks, cpu.rank()) != ranks.end()) {
      RankContext member = gpu.In(id);
      std::vector<float> values(4000, 1.0f);
      ExpectOk(member, member.Allreduce("part", values));
      EXPECT_EQ(values, std::vector<float>(4000, static_cast<float>(ranks.size())));
    }
    cpu.RemoveSet(id);
  });
}

TEST_P(DeviceOperations, InProgramOrderOnTheCallersStream) {
  const bool by_nccl = std::string(GetParam().name).starts_with("Nccl");
  DeviceJob job(GetParam().ranks, GetParam().devices, GetParam().backend);
  job.options().hosts = GetParam().hosts;
  job.Run([&](RankContext& self) {
    std::vector<float> values(3000, 0.0f);
    const float mine = static_cast<float>(self.rank() + 1);
    testing::ProgramStream stream(job.device(), self);
    if (by_nccl) stream.Hold();
    ASSERT_TRUE(job.device()
                    .Fill(BytesOf(values).data(), std::as_bytes(std::span(&mine, 1)), values.size(),
                          stream.get())
                    .ok());
    CollectiveCall call{
        .params = {.kind = OpKind::kAllreduce,
                   .dtype = DType::kFloat32,
                   .reduce_op = ReduceOp::kSum,
                   .device = {DeviceType::kCuda,
                              static_cast<std::int16_t>(*self.engine().device().index())}},
        .size = self.size(),
        .bytes_per_rank = {values.size() * sizeof(float)},
        .inputs = {ByteStream({BytesOf(values)})},
        .outputs = {ByteStream({BytesOf(values)})},
        .stream = stream.get()};
    const Status status = self.set().RunOrdered(call);
    ASSERT_TRUE(status.ok()) << status.ToString();
    stream.Release();
    const EventPool::Lease mark = stream.Mark(self);
    ASSERT_TRUE(
        job.device().Await(*mark, SteadyClock::Instance().Now() + std::chrono::seconds(60)).ok());
    const int n = self.size();
    EXPECT_EQ(values, std::vector<float>(3000, static_cast<float>(n * (n + 1) / 2)));
  });
}

// NCCL has none of it, so it is staged beside.
TEST_P(DeviceOperations, Adasum) {
  Run([](RankContext& cpu, RankContext& gpu) {
    std::vector<float> first(8, 1.0f);
    ExpectOk(gpu, gpu.Allreduce("first", first));
    std::vector<float> expected = Numbers(3000, cpu.rank());
    std::vector<float> values = expected;
    ExpectOk(cpu, cpu.Allreduce("cpu", expected, ReduceOp::kAdasum));
    ExpectOk(gpu, gpu.Allreduce("gpu", values, ReduceOp::kAdasum));
    EXPECT_EQ(values, expected);
  });
}

}  // namespace
}  // namespace hora
