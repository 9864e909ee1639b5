#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>

#include "support/rank_group.h"

namespace hora {
namespace {

using testing::FloatsOf;
using testing::RankContext;
using testing::RankGroupOptions;
using testing::RunRanks;

float SumOverRanks(int size, auto&& value) {
  float sum = 0;
  for (int rank = 0; rank < size; ++rank) sum += static_cast<float>(value(rank));
  return sum;
}

class EngineOnRanks : public ::testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Sizes, EngineOnRanks, ::testing::Values(1, 2, 3, 4, 7),
                         [](const auto& test) { return std::to_string(test.param) + "ranks"; });

TEST_P(EngineOnRanks, AllreduceSumsOnEveryRank) {
  RunRanks(GetParam(), [](RankContext& self) {
    for (const std::size_t count : {0u, 1u, 5u, 4096u, 300'000u}) {
      std::vector<float> values(count, static_cast<float>(self.rank() + 1));
      ASSERT_TRUE(self.Wait(self.Allreduce("x", values)).ok());
      const float expected = SumOverRanks(self.size(), [](int rank) { return rank + 1; });
      EXPECT_TRUE(
          std::all_of(values.begin(), values.end(), [&](float v) { return v == expected; }));
    }
  });
}

TEST_P(EngineOnRanks, NamesMayBeSubmittedInAnyOrder) {
  RunRanks(GetParam(), [](RankContext& self) {
    constexpr int kTensors = 100;
    std::mt19937 random(static_cast<unsigned>(self.rank()));
    for (int round = 0; round < 5; ++round) {
      std::vector<std::vector<float>> values;
      for (int i = 0; i < kTensors; ++i) values.emplace_back(static_cast<std::size_t>(i), 1.0f + i);
      std::vector<int> order(kTensors);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      std::vector<std::shared_ptr<Handle>> handles;
      for (const int i : order) {
        handles.push_back(
            self.Allreduce("w" + std::to_string(i), values[static_cast<std::size_t>(i)]));
      }
      for (const auto& handle : handles)
        ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
      for (int i = 0; i < kTensors; ++i) {
        for (const float v : values[static_cast<std::size_t>(i)]) {
          ASSERT_EQ(v, static_cast<float>(self.size()) * (1.0f + static_cast<float>(i)));
        }
      }
    }
  });
}

// Larger than the rings between ranks, both ways: the root is last, so all is agreed at once.
TEST_P(EngineOnRanks, AThousandLongNamesAreAgreedAtOnce) {
  RunRanks(GetParam(), [](RankContext& self) {
    constexpr int kTensors = 1500;
    std::vector<std::vector<float>> values(kTensors, {1.0f});
    ASSERT_TRUE(self.Wait(self.Barrier("ready")).ok());
    std::vector<float> others_are_ready;
    if (self.rank() == 0) {
      // Each of the others contributes its row after it has submitted all the rest.
      ASSERT_TRUE(self.Wait(self.Allgather("submitted", others_are_ready)).ok());
    }
    std::vector<std::shared_ptr<Handle>> handles;
    for (int i = 0; i < kTensors; ++i) {
      handles.push_back(self.Allreduce(std::string(100, 'n') + std::to_string(i),
                                       values[static_cast<std::size_t>(i)]));
    }
    if (self.rank() != 0) {
      ASSERT_TRUE(self.Wait(self.Allgather("submitted", others_are_ready)).ok());
    }
    for (const auto& handle : handles) ASSERT_TRUE(self.Wait(handle).ok());
    EXPECT_EQ(values.back().front(), static_cast<float>(self.size()));
  });
}

TEST_P(EngineOnRanks, AllgatherConcatenatesUnevenRows) {
  RunRanks(GetParam(), [](RankContext& self) {
    for (int round = 0; round < 3; ++round) {
      std::vector<float> rows(static_cast<std::size_t>(self.rank() * 1000 + round),
                              self.rank() * 1.0f);
      const auto handle = self.Allgather("rows", rows);
      ASSERT_TRUE(self.Wait(handle).ok()) << handle->status().ToString();
      const Gathered& gathered = *handle->gathered().front();
      const std::vector<float> result = FloatsOf(gathered);
      std::vector<float> expected;
      for (int rank = 0; rank < self.size(); ++rank) {
        EXPECT_EQ(gathered.rows_by_rank()[static_cast<std::size_t>(rank)], rank * 1000 + round);
        expected.insert(expected.end(), static_cast<std::size_t>(rank * 1000 + round), rank * 1.0f);
      }
      EXPECT_EQ(result, expected);
    }
  });
}

TEST_P(EngineOnRanks, BroadcastCopiesTheRootsValues) {
  RunRanks(GetParam(), [](RankContext& self) {
    for (int root = 0; root < self.size(); ++root) {
      std::vector<float> values(100'000, static_cast<float>(self.rank()));
      ASSERT_TRUE(self.Wait(self.Broadcast("b", values, root)).ok());
      EXPECT_TRUE(std::all_of(values.begin(), values.end(), [&](float v) { return v == root; }));
    }
  });
}

TEST_P(EngineOnRanks, MismatchIsAnErrorEverywhereAndTheEngineStaysUsable) {
  if (GetParam() == 1) GTEST_SKIP() << "one rank cannot disagree";
  RunRanks(GetParam(), [](RankContext& self) {
    std::vector<float> values(self.rank() == 1 ? 3 : 2);
    const Status status = self.Wait(self.Allreduce("w", values));
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    for (const char* part : {"'w'", "[2]", "[3]", "shape"}) {
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    }
    std::vector<float> good(4, 1.0f);
    EXPECT_TRUE(self.Wait(self.Allreduce("w", good)).ok());
    EXPECT_EQ(good[0], static_cast<float>(self.size()));
  });
}

TEST_P(EngineOnRanks, NobodyPassesABarrierEarly) {
  std::atomic<int> arrived{0};
  RunRanks(GetParam(), [&](RankContext& self) {
    for (int round = 1; round <= 50; ++round) {
      arrived.fetch_add(1);
      ASSERT_TRUE(self.Wait(self.Barrier("b" + std::to_string(round))).ok());
      ASSERT_GE(arrived.load(), round * self.size());
    }
  });
}

TEST(Engine, ANameInUseIsRefusedAndTheFirstUseIsUnharmed) {
  RunRanks(2, [](RankContext& self) {
    std::vector<float> first{1.0f};
    std::vector<float> second{1.0f};
    if (self.rank() == 0) {
      const auto handle = self.Allreduce("x", first);
      EXPECT_EQ(self.Wait(self.Allreduce("x", second)).code(), StatusCode::kInvalidArgument);
      ASSERT_TRUE(self.Wait(self.Barrier("submitted twice")).ok());
      EXPECT_TRUE(self.Wait(handle).ok());
    } else {
      ASSERT_TRUE(self.Wait(self.Barrier("submitted twice")).ok());
      EXPECT_TRUE(self.Wait(self.Allreduce("x", first)).ok());
    }
    EXPECT_EQ(first[0], 2.0f);
  });
}

TEST(Engine, WhatOneRankNeverSubmitsEndsInAStallErrorOnAll) {
  RankGroupOptions options{.size = 3, .config = {}};
  options.config.stall_warning = std::chrono::milliseconds(400);
  options.config.stall_abort = std::chrono::milliseconds(1500);
  std::atomic<int> raised{0};
  RunRanks(options, [&](RankContext& self) {
    std::vector<float> values{1.0f};
    if (self.rank() != 2) {
      const Status status = self.Wait(self.Allreduce("lost", values));
      EXPECT_EQ(status.code(), StatusCode::kStalled) << status.ToString();
      EXPECT_NE(status.message().find("rank 2 never submitted allreduce 'lost'"), std::string::npos)
          << status.message();
      raised.fetch_add(1);
    } else {
      while (raised.load() < 2) YieldCore();
      // Too late: the others have given up, and so has this rank's engine, which had nothing to
      // wait for.
      EXPECT_EQ(self.Wait(self.Allreduce("lost", values)).code(), StatusCode::kStalled);
    }
  });
}

TEST(Engine, AnAbortReachesRanksThatWait) {
  RunRanks(3, [](RankContext& self) {
    std::vector<float> values{1.0f};
    if (self.rank() == 1) {
      self.engine().Abort(Status(StatusCode::kPeerFailed, "rank 1 ended with ValueError: no data"));
    }
    const Status status = self.Wait(self.Allreduce("x", values));
    EXPECT_EQ(status, Status(StatusCode::kPeerFailed, "rank 1 ended with ValueError: no data"));
  });
}

TEST(Engine, ARankThatLeavesFailsWhatNeedsIt) {
  RunRanks(3, [](RankContext& self) {
    std::vector<float> values{1.0f};
    ASSERT_TRUE(self.Wait(self.Allreduce("x", values)).ok());
    if (self.rank() == 1) {
      EXPECT_TRUE(self.engine().Shutdown().ok());
      return;
    }
    const Status status = self.Wait(self.Allreduce("y", values));
    EXPECT_EQ(status.code(), StatusCode::kShutDown);
    EXPECT_NE(status.message().find("rank 1"), std::string::npos) << status.message();
  });
}

TEST(Engine, AsynchronousWorkGetsDoneWhileNobodyWaits) {
  RunRanks(2, [](RankContext& self) {
    std::vector<float> values(1000, 1.0f);
    const auto handle = self.Allreduce("x", values);
    const TimePoint deadline = SteadyClock::Instance().Now() + std::chrono::seconds(30);
    while (!handle->done() && SteadyClock::Instance().Now() < deadline) YieldCore();
    ASSERT_TRUE(handle->done());
    EXPECT_EQ(values[999], 2.0f);
  });
}

TEST(Engine, ManyThreadsOfARankMaySubmitAndWait) {
  RunRanks(2, [](RankContext& self) {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&self, t] {
        for (int round = 0; round < 100; ++round) {
          std::vector<float> values(64, 1.0f);
          ASSERT_TRUE(self.Wait(self.Allreduce("t" + std::to_string(t), values)).ok());
          ASSERT_EQ(values[63], 2.0f);
        }
      });
    }
  });
}

TEST(Engine, AutotuningChangesEveryRankAlikeAndKeepsALog) {
  const std::string path =
      ::testing::TempDir() + "hora_autotune_" + std::to_string(getpid()) + ".csv";
  RankGroupOptions options{.size = 3, .config = {}};
  options.config.autotune = {
      .enabled = true, .log = path, .warmup_samples = 0, .steps_per_sample = 1, .max_samples = 40};
  std::vector<Tuning> tunings(3);
  RunRanks(options, [&](RankContext& self) {
    const Tuning before = self.set().tuning();
    bool changed = false;
    for (int round = 0; round < 200; ++round) {
      std::vector<float> values(10'000, 1.0f);
      ASSERT_TRUE(self.Wait(self.Allreduce("x", values)).ok());
      ASSERT_EQ(values[9'999], 3.0f);
      changed = changed || !(self.set().tuning() == before);
    }
    EXPECT_TRUE(changed);
    tunings[static_cast<std::size_t>(self.rank())] = self.set().tuning();
  });
  EXPECT_EQ(tunings[0], tunings[1]);
  EXPECT_EQ(tunings[0], tunings[2]);
  std::ifstream log(path);
  const auto lines = std::count(std::istreambuf_iterator<char>(log), {}, '\n');
  EXPECT_GT(lines, 5);
  std::filesystem::remove(path);
}

TEST(Engine, AWaitEndsAtItsDeadlineAndTheOperationGoesOn) {
  RunRanks(2, [](RankContext& self) {
    std::vector<float> values{1.0f};
    if (self.rank() == 0) {
      const auto handle = self.Allreduce("x", values);
      const TimePoint soon = SteadyClock::Instance().Now() + std::chrono::milliseconds(20);
      EXPECT_EQ(self.set().Wait(*handle, soon), WakeReason::kDeadline);
      ASSERT_TRUE(self.Wait(self.Barrier("rank 0 gave up waiting")).ok());
      EXPECT_TRUE(self.Wait(handle).ok());
    } else {
      ASSERT_TRUE(self.Wait(self.Barrier("rank 0 gave up waiting")).ok());
      EXPECT_TRUE(self.Wait(self.Allreduce("x", values)).ok());
    }
    EXPECT_EQ(values[0], 2.0f);
  });
}

}  // namespace
}  // namespace hora
