#include "hora/engine/process_set.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <random>

#include "support/rank_group.h"

namespace hora {
namespace {

using testing::RankContext;
using testing::RankGroupOptions;
using testing::RunRanks;

// 512-byte blocks of all shared memory that this process holds a descriptor of.
std::int64_t SharedBlocks() {
  std::int64_t blocks = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone);
    struct stat about {};
    if (gone || target.string().find("memfd:hora") == std::string::npos) continue;
    if (stat(entry.path().c_str(), &about) == 0) blocks += about.st_blocks;
  }
  return blocks;
}

float SumOf(const std::vector<int>& ranks) {
  float sum = 0;
  for (const int rank : ranks) sum += static_cast<float>(rank + 1);
  return sum;
}

bool Contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

// One progress lane for all sets would deadlock: every rank is inside another set's collective.
TEST(ProcessSet, OverlappingSetsRunInAnyOrder) {
  RunRanks(3, [](RankContext& self) {
    const int ids[] = {self.AddSet({0, 1}), self.AddSet({1, 2}), self.AddSet({0, 2})};
    // Rank r comes first to set r, then to the other one that it is in.
    const int first = ids[self.rank()];
    const int second = ids[(self.rank() + 2) % 3];
    for (int round = 0; round < 50; ++round) {
      std::vector<float> a(200'000, static_cast<float>(self.rank() + 1));
      std::vector<float> b = a;
      RankContext in_first = self.In(first);
      RankContext in_second = self.In(second);
      const auto one = in_first.Allreduce("x", a);
      const auto two = in_second.Allreduce("x", b);
      ASSERT_TRUE(in_first.Wait(one).ok()) << one->status().ToString();
      ASSERT_TRUE(in_second.Wait(two).ok()) << two->status().ToString();
      ASSERT_EQ(a[199'999], SumOf(in_first.set().names().global_ranks()));
      ASSERT_EQ(b[0], SumOf(in_second.set().names().global_ranks()));
    }
  });
}

TEST(ProcessSet, ManySetsAndRandomOrders) {
  const std::vector<std::vector<int>> members = {{0, 1},       {2, 3}, {0, 2}, {1, 2, 3},
                                                 {0, 1, 2, 3}, {3},    {0, 3}};
  RunRanks(4, [&](RankContext& self) {
    std::vector<RankContext> sets{self};
    for (const auto& ranks : members) {
      const int id = self.AddSet(ranks);
      if (Contains(ranks, self.global_rank())) sets.push_back(self.In(id));
    }
    std::mt19937 random(static_cast<unsigned>(self.rank()) + 1);
    for (int round = 0; round < 30; ++round) {
      std::shuffle(sets.begin(), sets.end(), random);
      std::vector<std::vector<float>> values(2 * sets.size(),
                                             {static_cast<float>(self.rank() + 1)});
      std::vector<std::shared_ptr<Handle>> handles;
      for (std::size_t i = 0; i < sets.size(); ++i) {
        handles.push_back(sets[i].Allreduce("a", values[2 * i]));
        handles.push_back(sets[i].Allreduce("b", values[2 * i + 1]));
      }
      for (std::size_t i = 0; i < handles.size(); ++i) {
        RankContext& set = sets[i / 2];
        ASSERT_TRUE(set.Wait(handles[i]).ok()) << handles[i]->status().ToString();
        std::vector<int> ranks = set.set().names().global_ranks();
        if (ranks.empty()) ranks = {0, 1, 2, 3};
        ASSERT_EQ(values[i][0], SumOf(ranks));
      }
    }
  });
}

TEST(ProcessSet, DisjointSetsAndASetOfOne) {
  RunRanks(5, [](RankContext& self) {
    const int low = self.AddSet({0, 1});
    const int high = self.AddSet({2, 3});
    const int alone = self.AddSet({4});
    EXPECT_EQ(self.engine().RanksOfSets().at(high), (std::vector<int>{2, 3}));
    EXPECT_EQ(self.engine().RanksOfSets().size(), 4u);
    RankContext mine = self.In(self.rank() < 2 ? low : self.rank() < 4 ? high : alone);
    for (int round = 0; round < 20; ++round) {
      std::vector<float> values(1000, static_cast<float>(mine.rank()));
      ASSERT_TRUE(mine.Wait(mine.Broadcast("x", values, mine.size() - 1)).ok());
      EXPECT_EQ(values[999], static_cast<float>(mine.size() - 1));
      ASSERT_TRUE(mine.Wait(mine.Barrier("b")).ok());
    }
  });
}

TEST(ProcessSet, UnknownAndForeignSetsAreNamed) {
  RunRanks(3, [](RankContext& self) {
    const int id = self.AddSet({0, 1});
    EXPECT_EQ(id, 1);
    const auto unknown = self.engine().Find(3);
    ASSERT_FALSE(unknown);
    EXPECT_EQ(unknown.error().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(unknown.error().message(), "process set 3 does not exist; those that do: 0, 1");
    const auto found = self.engine().Find(1);
    EXPECT_EQ(found.has_value(), self.rank() != 2);
    if (!found) {
      EXPECT_EQ(found.error().message(), "rank 2 is not in process set 1 (ranks 0-1)");
    }
    for (const std::vector<int>& ranks : {std::vector<int>{}, {1, 0}, {0, 0}, {-1, 0}, {0, 3}}) {
      const auto refused = self.engine().AddProcessSet(ranks);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
    }
    EXPECT_FALSE(self.engine().RemoveProcessSet(0).ok());
    EXPECT_FALSE(self.engine().RemoveProcessSet(7).ok());
  });
}

TEST(ProcessSet, MayBeAddedAndRemovedManyTimes) {
  RankGroupOptions options{.size = 3, .config = {}};
  options.config.data_plane.window_bytes = 64u << 10;
  std::int64_t before = 0;
  RunRanks(options, [&](RankContext& self) {
    ASSERT_TRUE(self.Wait(self.Barrier("all are here")).ok());
    if (self.rank() == 0) before = SharedBlocks();
    int last = 0;
    for (int round = 0; round < 100; ++round) {
      const int id = self.AddSet({0, 2});
      EXPECT_GT(id, last);
      last = id;
      std::shared_ptr<Handle> pending;
      std::vector<float> values(1000, 1.0f);
      if (self.rank() != 1) {
        RankContext pair = self.In(id);
        pending = pair.Allreduce("x", values);  // finished by the removal
      }
      self.RemoveSet(id);
      if (pending != nullptr) {
        ASSERT_TRUE(pending->done());
        ASSERT_TRUE(pending->status().ok()) << pending->status().ToString();
        ASSERT_EQ(values[999], 2.0f);
      }
      EXPECT_FALSE(self.engine().Find(id));
    }
    ASSERT_TRUE(self.Wait(self.Barrier("all are done")).ok());
    // A rank that woke up late may have touched a page of each set again.
    if (self.rank() == 0) {
      EXPECT_LT(SharedBlocks() - before, 100 * 8 * 8);
    }
  });
}

TEST(ProcessSet, WithoutMemoryNobodyHasTheSetAndItMayBeTriedAgain) {
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  RunRanks(3, [&](RankContext& self) {
    const auto limit_to = [&](rlim_t bytes) {
      ASSERT_TRUE(self.Wait(self.Barrier("before")).ok());
      const rlimit changed{.rlim_cur = bytes, .rlim_max = limit.rlim_max};
      if (self.rank() == 0) {
        ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &changed), 0);
      }
      ASSERT_TRUE(self.Wait(self.Barrier("after")).ok());
    };
    limit_to(1u << 20);
    const auto refused = self.engine().AddProcessSet({1, 2});
    limit_to(limit.rlim_cur);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), StatusCode::kResource);
    for (const char* part : {"ranks 1-2", "rank 1: ", "file size limit"}) {
      EXPECT_NE(refused.error().message().find(part), std::string::npos)
          << refused.error().message();
    }
    EXPECT_EQ(self.engine().RanksOfSets().size(), 1u);
    const int id = self.AddSet({1, 2});
    if (self.rank() == 0) return;
    RankContext pair = self.In(id);
    std::vector<float> values(1000, 1.0f);
    EXPECT_TRUE(pair.Wait(pair.Allreduce("x", values)).ok());
  });
}

TEST(ProcessSet, AnAbortOfTheJobWakesThoseWhoWaitInASet) {
  std::atomic<int> waiting{0};
  RunRanks(3, [&](RankContext& self) {
    const int id = self.AddSet({1, 2});
    const Status cause(StatusCode::kPeerFailed, "rank 0 ended with ValueError: no data");
    std::vector<float> values(10, 1.0f);
    if (self.rank() == 0) {
      while (waiting.load() < 1) YieldCore();
      self.engine().Abort(cause);
      EXPECT_EQ(self.Wait(self.Barrier("b")), cause);
    } else if (self.rank() == 1) {
      RankContext pair = self.In(id);
      const auto handle = pair.Allreduce("never", values);
      waiting.fetch_add(1);
      EXPECT_EQ(pair.Wait(handle), cause);
      EXPECT_EQ(pair.Wait(pair.Allreduce("later", values)), cause);
      EXPECT_EQ(self.Wait(self.Barrier("b")), cause);
    } else {
      EXPECT_EQ(self.Wait(self.Barrier("b")), cause);
    }
  });
}

TEST(ProcessSet, ASetThatFailsEndsTheJob) {
  RankGroupOptions options{.size = 3, .config = {}};
  options.config.stall_warning = std::chrono::milliseconds(400);
  options.config.stall_abort = std::chrono::milliseconds(1500);
  std::atomic<bool> failed{false};
  RunRanks(options, [&](RankContext& self) {
    const int id = self.AddSet({1, 2});
    std::vector<float> values(10, 1.0f);
    Status status;
    if (self.rank() == 1) {
      RankContext pair = self.In(id);
      status = pair.Wait(pair.Allreduce("lost", values));
      failed.store(true);
    } else {
      while (!failed.load()) YieldCore();
      status = self.Wait(self.Allreduce("of all", values));
    }
    EXPECT_EQ(status.code(), StatusCode::kStalled) << status.ToString();
    for (const char* part : {"process set 1: ", "'lost'", "rank 2"}) {
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    }
  });
}

TEST(ProcessSet, ErrorsNameTheSetAndGlobalRanks) {
  RunRanks(4, [](RankContext& self) {
    const int id = self.AddSet({1, 3});
    if (self.rank() % 2 == 0) return;
    RankContext pair = self.In(id);
    std::vector<float> values(self.rank() == 3 ? 3 : 2);
    const Status status = pair.Wait(pair.Allreduce("w", values));
    EXPECT_EQ(status.code(), StatusCode::kMismatch);
    for (const char* part : {"process set 1: ", "'w'", "rank 1", "rank 3"}) {
      EXPECT_NE(status.message().find(part), std::string::npos) << status.message();
    }
  });
}

TEST(ProcessSet, ShutdownLeavesOpenSets) {
  for (int round = 0; round < 20; ++round) {
    RunRanks(3, [](RankContext& self) {
      const int id = self.AddSet({0, 1});
      self.AddSet({0, 1, 2});
      if (self.rank() == 2) return;
      RankContext pair = self.In(id);
      std::vector<float> values(100, 1.0f);
      ASSERT_TRUE(pair.Wait(pair.Allreduce("x", values)).ok());
    });
  }
}

TEST(ProcessSet, WhoLeavesTheJobFailsWhatASetStillNeeds) {
  RunRanks(3, [](RankContext& self) {
    const int id = self.AddSet({1, 2});
    if (self.rank() == 0) return;
    if (self.rank() == 2) return static_cast<void>(self.engine().Shutdown());
    RankContext pair = self.In(id);
    std::vector<float> values(100, 1.0f);
    const Status status = pair.Wait(pair.Allreduce("x", values));
    EXPECT_EQ(status.code(), StatusCode::kShutDown) << status.ToString();
    EXPECT_NE(status.message().find("rank 2"), std::string::npos) << status.message();
  });
}

}  // namespace
}  // namespace hora
