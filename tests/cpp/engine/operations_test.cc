// Every kind of operation, on the global set and on a part of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>

#include "hora/fusion/fusion_plan.h"
#include "support/rank_group.h"

namespace hora {
namespace {

using testing::FloatsOf;
using testing::RankContext;
using testing::RankGroupOptions;
using testing::RunRanks;

// Runs `body` as the ranks 1 … n of n + 1 ranks, or as all of n ranks.
class Operations : public ::testing::TestWithParam<std::tuple<int, bool>> {
 protected:
  static void Run(const std::function<void(RankContext&)>& body) {
    const auto [size, part] = GetParam();
    if (!part) return RunRanks(size, body);
    RunRanks(size + 1, [&, members = size](RankContext& self) {
      std::vector<int> ranks(static_cast<std::size_t>(members));
      std::iota(ranks.begin(), ranks.end(), 1);
      const int id = self.AddSet(ranks);
      if (self.global_rank() == 0) return;
      RankContext member = self.In(id);
      body(member);
    });
  }
};

INSTANTIATE_TEST_SUITE_P(Sizes, Operations,
                         ::testing::Combine(::testing::Values(1, 2, 3, 5), ::testing::Bool()),
                         [](const auto& test) {
                           return std::to_string(std::get<0>(test.param)) +
                                  (std::get<1>(test.param) ? "OfMore" : "OfAll");
                         });

TEST_P(Operations, AGroupIsReducedTogether) {
  Run([](RankContext& self) {
    for (int round = 0; round < 3; ++round) {
      std::vector<std::vector<float>> tensors;
      for (const std::size_t count : {1u, 0u, 1000u, 70'000u}) {
        tensors.emplace_back(count, static_cast<float>(self.rank() + 1));
      }
      const auto handle = self.GroupedAllreduce("group", tensors);
      ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
      const int n = self.size();
      for (const auto& values : tensors) {
        for (const float v : values) ASSERT_EQ(v, static_cast<float>(n * (n + 1) / 2));
      }
    }
  });
}

// Nobody may begin to execute while children wait for the rest of the agreement.
TEST_P(Operations, AnAgreementMayBeLargerThanTheRingsThatCarryIt) {
  Run([](RankContext& self) {
    for (const char* name : {"one", "another"}) {
      std::vector<std::vector<float>> tensors(10'000, {1.0f});
      const auto handle = self.GroupedAllreduce(name, tensors);
      ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
      for (const auto& values : tensors) ASSERT_EQ(values[0], static_cast<float>(self.size()));
    }
  });
}

TEST_P(Operations, AGroupOfSeveralDTypesCompletesOnce) {
  Run([](RankContext& self) {
    for (int round = 0; round < 3; ++round) {
      std::vector<float> a(10, 1.0f);
      std::vector<std::int64_t> b(20, 2);
      std::vector<float> c(30, 3.0f);
      Request request{.name = "mixed", .params = {.shape = Shape{10}}, .first_dims = {}};
      request.params.rest = {{DType::kInt64, Shape{20}}, {DType::kFloat32, Shape{30}}};
      const auto bytes = [](auto& values) { return std::as_writable_bytes(std::span(values)); };
      const auto handle = self.SubmitGroup(
          request, {{bytes(a), bytes(a)}, {bytes(b), bytes(b)}, {bytes(c), bytes(c)}});
      ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
      EXPECT_EQ(a[9], 1.0f * static_cast<float>(self.size()));
      EXPECT_EQ(b[19], 2 * self.size());
      EXPECT_EQ(c[29], 3.0f * static_cast<float>(self.size()));
    }
  });
}

TEST_P(Operations, AGroupedAllgatherGivesOneResultPerTensor) {
  Run([](RankContext& self) {
    std::vector<float> a(static_cast<std::size_t>(self.rank()), 1.0f);
    std::vector<float> b(3, static_cast<float>(self.rank()));
    Request request{.name = "rows",
                    .params = {.kind = OpKind::kAllgather, .shape = Shape{0}},
                    .first_dims = {self.rank(), 3}};
    request.params.rest = {{DType::kFloat32, Shape{0}}};
    const auto bytes = [](auto& values) { return std::as_writable_bytes(std::span(values)); };
    const auto handle = self.SubmitGroup(request, {{bytes(a), {}}, {bytes(b), {}}});
    ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
    ASSERT_EQ(handle->gathered().size(), 2u);
    std::vector<std::int64_t> rows(static_cast<std::size_t>(self.size()));
    std::iota(rows.begin(), rows.end(), 0);
    EXPECT_EQ(handle->gathered()[0]->rows_by_rank(), rows);
    const std::vector<float> all = FloatsOf(*handle->gathered()[1]);
    ASSERT_EQ(all.size(), 3u * static_cast<std::size_t>(self.size()));
    for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<float>(i / 3));
  });
}

TEST_P(Operations, AlltoallSendsEachRankItsRowsWithSplitsThatChange) {
  Run([](RankContext& self) {
    const auto rows_for = [](int source, int destination, int round) {
      return (source * 7 + destination * 3 + round * 1000) % 2500;
    };
    for (int round = 0; round < 4; ++round) {
      std::vector<float> rows;
      std::vector<std::int64_t> splits;
      for (int to = 0; to < self.size(); ++to) {
        splits.push_back(rows_for(self.rank(), to, round));
        rows.insert(rows.end(), static_cast<std::size_t>(splits.back()),
                    static_cast<float>(self.rank() * 100 + to));
      }
      const auto handle = self.Alltoall("x", rows, splits);
      ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
      std::vector<float> expected;
      std::vector<std::int64_t> received;
      for (int from = 0; from < self.size(); ++from) {
        received.push_back(rows_for(from, self.rank(), round));
        expected.insert(expected.end(), static_cast<std::size_t>(received.back()),
                        static_cast<float>(from * 100 + self.rank()));
      }
      EXPECT_EQ(handle->gathered().front()->rows_by_rank(), received);
      EXPECT_EQ(FloatsOf(*handle->gathered().front()), expected);
    }
  });
}

TEST_P(Operations, ReducescatterGivesEachRankItsRows) {
  Run([](RankContext& self) {
    for (const std::int64_t count : {0, 1, 7, 100'003}) {
      std::vector<float> rows(static_cast<std::size_t>(count));
      for (std::size_t i = 0; i < rows.size(); ++i) {
        rows[i] = static_cast<float>(i % 1000) + static_cast<float>(self.rank());
      }
      const RowRange range = RowsOfRank(count, self.rank(), self.size());
      std::vector<float> mine(static_cast<std::size_t>(range.count));
      const auto handle = self.Reducescatter("x", rows, mine, ReduceOp::kAverage);
      ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
      for (std::size_t i = 0; i < mine.size(); ++i) {
        const auto row = static_cast<std::size_t>(range.first) + i;
        ASSERT_FLOAT_EQ(
            mine[i], static_cast<float>(row % 1000) + static_cast<float>(self.size() - 1) / 2.0f);
      }
    }
  });
}

TEST_P(Operations, AdasumOfEqualGradientsIsTheGradient) {
  Run([](RankContext& self) {
    std::vector<float> values(1000);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 500.0f;
    const std::vector<float> before = values;
    const auto handle = self.Allreduce("x", values, ReduceOp::kAdasum);
    ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
    for (std::size_t i = 0; i < values.size(); ++i) ASSERT_NEAR(values[i], before[i], 1e-3);
  });
}

TEST_P(Operations, JoinedRanksHaveNoWeightUntilAllHaveJoined) {
  Run([](RankContext& self) {
    // Rank r has r + 1 steps of data; the last one has most.
    for (int round = 0; round < 2; ++round) {
      for (int step = 0; step <= self.rank(); ++step) {
        const int present = self.size() - step;  // ranks from `step` on
        std::vector<float> average(10, static_cast<float>(self.rank() + 1));
        std::vector<float> least(10, static_cast<float>(self.rank() + 1));
        const std::string name = std::to_string(step % 2);
        const auto first = self.Allreduce("a" + name, average, ReduceOp::kAverage);
        const auto second = self.Allreduce("m" + name, least, ReduceOp::kMin);
        ASSERT_TRUE(self.Wait(first).ok()) << first->status().ToString();
        ASSERT_TRUE(self.Wait(second).ok()) << second->status().ToString();
        EXPECT_FLOAT_EQ(average[9], static_cast<float>(step + 1 + self.size()) / 2.0f)
            << present << " ranks";
        EXPECT_EQ(least[9], static_cast<float>(step + 1));
      }
      const auto join = self.Join();
      ASSERT_TRUE(self.Wait(join).ok()) << join->status().ToString();
      EXPECT_EQ(join->last_joined(), self.set().names().Of(self.size() - 1));
      std::vector<float> values(10, 1.0f);
      ASSERT_TRUE(self.Wait(self.Allreduce("a0", values)).ok());
      EXPECT_EQ(values[0], static_cast<float>(self.size())) << "nobody has joined any more";
    }
  });
}

TEST(Join, MayDivideByTheSizeOfTheSet) {
  RankGroupOptions options{.size = 4, .config = {}};
  options.config.join_divides_by_size = true;
  RunRanks(options, [](RankContext& self) {
    if (self.rank() == 2) {
      EXPECT_TRUE(self.Wait(self.Join()).ok());
      return;
    }
    std::vector<float> values(3, 4.0f);
    ASSERT_TRUE(self.Wait(self.Allreduce("x", values, ReduceOp::kAverage)).ok());
    EXPECT_EQ(values[0], 3.0f);
    EXPECT_TRUE(self.Wait(self.Join()).ok());
  });
}

TEST(Join, OtherOperationsNameWhoHasJoined) {
  RunRanks(3, [](RankContext& self) {
    const int id = self.AddSet({0, 2});
    if (self.rank() == 1) return;
    RankContext pair = self.In(id);
    if (pair.rank() == 1) {
      EXPECT_TRUE(pair.Wait(pair.Join()).ok());
      return;
    }
    std::vector<float> values(3, 4.0f);
    const Status status = pair.Wait(pair.Allgather("x", values));
    EXPECT_FALSE(status.ok());
    EXPECT_NE(status.message().find("process set 1: "), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("rank 2"), std::string::npos) << status.message();
    const auto join = pair.Join();
    EXPECT_TRUE(pair.Wait(join).ok());
    EXPECT_EQ(join->last_joined(), 0);
  });
}

TEST(Join, WhoHasJoinedSubmitsNothingElse) {
  RunRanks(2, [](RankContext& self) {
    std::vector<float> values(3, 4.0f);
    if (self.rank() == 1) {
      const auto join = self.Join();
      const Status refused = self.Allreduce("late", values)->status();
      EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
      ASSERT_TRUE(self.Wait(join).ok());
    } else {
      ASSERT_TRUE(self.Wait(self.Allreduce("x", values)).ok());
      ASSERT_TRUE(self.Wait(self.Join()).ok());
    }
    EXPECT_TRUE(self.Wait(self.Allreduce("late", values)).ok());
  });
}

}  // namespace
}  // namespace hora
