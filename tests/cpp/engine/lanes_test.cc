// Small operations overtake large ones, and neither spoils the other.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <latch>
#include <mutex>
#include <random>
#include <thread>

#include "hora/base/format.h"
#include "hora/engine/job_settings.h"
#include "hora/engine/process_set.h"
#include "support/rank_group.h"

namespace hora {
namespace {

using testing::RankContext;
using testing::RankGroupOptions;
using testing::RunRanks;

constexpr Duration kPatience = std::chrono::seconds(60);
constexpr std::size_t kLarge = 300'000;  // floats: several steps of the windows
constexpr std::size_t kSmall = 16;

TimePoint Deadline() { return SteadyClock::Instance().Now() + kPatience; }

// Stands in the way of one rank's batch until it is opened, and remembers the batches' names.
class Gate final : public Observer {
 public:
  explicit Gate(std::string held = {}) : held_(std::move(held)) {}

  void OnBatchBegin(const OpLabel& label, std::size_t, std::uint64_t) override {
    {
      const std::lock_guard lock(mutex_);
      batches_.emplace_back(label.name);
    }
    if (label.name != held_) return;
    reached_.store(true);
    const TimePoint deadline = Deadline();
    while (!open_.load() && SteadyClock::Instance().Now() < deadline) YieldCore();
  }

  void AwaitReached() const {
    const TimePoint deadline = Deadline();
    while (!reached_.load() && SteadyClock::Instance().Now() < deadline) YieldCore();
    EXPECT_TRUE(reached_.load());
  }
  void Open() { open_.store(true); }
  std::vector<std::string> batches() const {
    const std::lock_guard lock(mutex_);
    return batches_;
  }

 private:
  const std::string held_;
  std::atomic<bool> reached_{false};
  std::atomic<bool> open_{false};
  mutable std::mutex mutex_;
  std::vector<std::string> batches_;
};

// The ranks of one set in one process, with an observer each and no engine around them.
class Lanes : public ::testing::Test {
 protected:
  void Make(std::vector<Observer*> observers) {
    const Config config;
    const int size = static_cast<int>(observers.size());
    auto board = Board::Create({.size = size, .window_bytes = 64u << 10}).value();
    for (int rank = 0; rank < size; ++rank) {
      Tunables tunables = TunablesOf(config);
      sets_.push_back(ProcessSet::Make(
          ProcessSetOptions{.rank = rank,
                            .layout = HostLayout({size}),
                            .board = board,
                            .ranks_on_host = size,
                            .tunables = tunables,
                            .config = config,
                            .observer = observers[static_cast<std::size_t>(rank)]}));
    }
  }

  void TearDown() override {
    std::vector<std::jthread> leaving;
    for (auto& set : sets_) leaving.emplace_back([&set] { EXPECT_TRUE(set->Leave().ok()); });
  }

  std::shared_ptr<Handle> Allreduce(int rank, const std::string& name, std::vector<float>& values,
                                    int priority = 0, bool will_wait = false) {
    const TensorView view{.data = reinterpret_cast<std::byte*>(values.data()),
                          .dtype = DType::kFloat32,
                          .device = {},
                          .shape = {static_cast<std::int64_t>(values.size())}};
    TensorEntry entry;
    entry.request = {
        .name = name,
        .params = {.dtype = DType::kFloat32, .priority = priority, .shape = view.shape},
        .first_dims = {}};
    entry.input = entry.output = view;
    entry.handle = std::make_shared<Handle>(name);
    auto handle = entry.handle;
    const Status status = set(rank).Submit(std::move(entry), will_wait);
    EXPECT_TRUE(status.ok()) << status.ToString();
    return handle;
  }

  Status Wait(int rank, const Handle& handle) {
    EXPECT_EQ(set(rank).Wait(handle, Deadline()), WakeReason::kWoken);
    return handle.status();
  }

  ProcessSet& set(int rank) { return *sets_[static_cast<std::size_t>(rank)]; }

  std::vector<std::shared_ptr<ProcessSet>> sets_;
};

TEST_F(Lanes, ASmallOperationOvertakesALargeOne) {
  Gate free, held("large");
  Make({&free, &held});
  std::vector<float> large[2], small[2];
  for (int rank = 0; rank < 2; ++rank) {
    large[rank].assign(kLarge, 1.0f);
    small[rank].assign(kSmall, 2.0f);
  }
  std::jthread other([&] {
    const auto slow = Allreduce(1, "large", large[1]);
    held.AwaitReached();  // this rank's background thread is in the middle of it
    const auto quick = Allreduce(1, "small", small[1], 0, true);
    EXPECT_TRUE(Wait(1, *quick).ok());
    EXPECT_FALSE(slow->done());
    held.Open();
    EXPECT_TRUE(Wait(1, *slow).ok());
  });
  // One thread: while it waits for the large one, it must look after the small one as well.
  const auto slow = Allreduce(0, "large", large[0]);
  const auto quick = Allreduce(0, "small", small[0]);
  EXPECT_TRUE(Wait(0, *slow).ok());
  EXPECT_TRUE(Wait(0, *quick).ok());
  other.join();
  EXPECT_EQ(large[0], std::vector<float>(kLarge, 2.0f));
  EXPECT_EQ(small[1], std::vector<float>(kSmall, 4.0f));
}

TEST_F(Lanes, PriorityDecidesWhoOvertakes) {
  Gate free, held("large");
  Make({&free, &held});
  std::vector<float> large[2], urgent[2];
  for (int rank = 0; rank < 2; ++rank) {
    large[rank].assign(kSmall, 1.0f);
    urgent[rank].assign(kLarge, 2.0f);
  }
  std::jthread other([&] {
    const auto slow = Allreduce(1, "large", large[1], -1);  // small, but it may wait
    held.AwaitReached();
    const auto quick = Allreduce(1, "urgent", urgent[1], 1, true);
    EXPECT_TRUE(Wait(1, *quick).ok());
    EXPECT_FALSE(slow->done());
    held.Open();
    EXPECT_TRUE(Wait(1, *slow).ok());
  });
  const auto slow = Allreduce(0, "large", large[0], -1);
  const auto quick = Allreduce(0, "urgent", urgent[0], 1);
  EXPECT_TRUE(Wait(0, *slow).ok());
  EXPECT_TRUE(Wait(0, *quick).ok());
  other.join();
  EXPECT_EQ(urgent[0], std::vector<float>(kLarge, 4.0f));
}

TEST_F(Lanes, WhatIsAgreedTogetherRunsByPriority) {
  Gate held("first");
  Make({&held});
  std::vector<std::vector<float>> values(5, std::vector<float>(kSmall, 1.0f));
  std::vector<std::shared_ptr<Handle>> handles;
  handles.push_back(Allreduce(0, "first", values[0], 1, true));
  std::jthread waiter([&] { EXPECT_TRUE(Wait(0, *handles[0]).ok()); });
  held.AwaitReached();  // what is submitted now is agreed at once, after it
  int number = 1;
  for (const int priority : {1, 3, 2}) {
    const std::string name = fmt::format("priority {}", priority);
    // Other scales, so that they do not travel in one batch.
    std::vector<float>& mine = values[static_cast<std::size_t>(number++)];
    TensorEntry entry;
    const TensorView view{.data = reinterpret_cast<std::byte*>(mine.data()),
                          .dtype = DType::kFloat32,
                          .device = {},
                          .shape = {kSmall}};
    entry.request = {.name = name,
                     .params = {.dtype = DType::kFloat32,
                                .priority = priority,
                                .prescale = 1.0 + priority,
                                .shape = view.shape},
                     .first_dims = {}};
    entry.input = entry.output = view;
    entry.handle = std::make_shared<Handle>(name);
    handles.push_back(entry.handle);
    ASSERT_TRUE(set(0).Submit(std::move(entry), /*will_wait=*/true).ok());
  }
  held.Open();
  for (const auto& handle : handles) EXPECT_TRUE(Wait(0, *handle).ok());
  EXPECT_EQ(held.batches(),
            (std::vector<std::string>{"first", "priority 3", "priority 2", "priority 1"}));
}

TEST_F(Lanes, AnAbortEndsBothLanesAndEveryHandle) {
  Gate free, held("large");
  Make({&free, &held});
  std::vector<float> large[2], small(kSmall, 1.0f);
  for (auto& values : large) values.assign(kLarge, 1.0f);
  std::jthread other([&] {
    const auto slow = Allreduce(1, "large", large[1]);
    held.AwaitReached();
    set(1).Abort(Error(StatusCode::kPeerFailed, "rank 1 was told to stop"));
    held.Open();
    EXPECT_EQ(Wait(1, *slow).message(), "rank 1 was told to stop");
  });
  const auto slow = Allreduce(0, "large", large[0]);
  const auto quick = Allreduce(0, "small", small);
  EXPECT_EQ(Wait(0, *slow).message(), "rank 1 was told to stop");
  EXPECT_EQ(Wait(0, *quick).message(), "rank 1 was told to stop");
}

TEST_F(Lanes, OrderedCollectivesNeedNoNamesAndMixWithNamedOnes) {
  Gate none;
  Make({&none, &none, &none});
  std::vector<std::jthread> ranks;
  for (int rank = 0; rank < 3; ++rank) {
    ranks.emplace_back([&, rank] {
      std::mt19937 random(static_cast<unsigned>(rank));
      for (int round = 0; round < 200; ++round) {
        const std::size_t count = round % 7 == 0 ? kLarge / 4 : 1 + static_cast<std::size_t>(round);
        std::vector<float> values(count, static_cast<float>(rank + round));
        std::vector<float> named(kSmall, 1.0f);
        // Each rank at a moment of its own.
        const bool before = random() % 2 == 0;
        std::shared_ptr<Handle> handle;
        if (before) handle = Allreduce(rank, "named", named);
        CollectiveCall call{.params = {.dtype = DType::kFloat32},
                            .size = 3,
                            .bytes_per_rank = {count * sizeof(float)},
                            .inputs = {ByteStream({std::as_writable_bytes(std::span(values))})},
                            .outputs = {ByteStream({std::as_writable_bytes(std::span(values))})}};
        ASSERT_TRUE(set(rank).RunOrdered(call).ok());
        ASSERT_EQ(values.back(), static_cast<float>(3 + 3 * round));
        if (!before) handle = Allreduce(rank, "named", named);
        ASSERT_TRUE(Wait(rank, *handle).ok());
        ASSERT_EQ(named[3], 3.0f);
      }
    });
  }
}

// Sizes on both sides of the line, priorities, orders and ways of waiting at random.
TEST(LanesOfEngines, RandomMixturesAreExact) {
  RankGroupOptions options{.size = 3, .config = {}};
  options.config.data_plane.urgent_bytes = 4096;
  options.config.data_plane.window_bytes = 16384;
  RunRanks(options, [](RankContext& self) {
    std::mt19937 shared(7), own(static_cast<unsigned>(self.rank()));
    for (int round = 0; round < 60; ++round) {
      std::vector<std::vector<float>> values;
      std::vector<int> priorities;
      for (int i = 0; i < 12; ++i) {
        const std::size_t count = shared() % 3 == 0 ? 1 + shared() % 40000 : 1 + shared() % 600;
        values.emplace_back(count, static_cast<float>(self.rank() + i));
        priorities.push_back(static_cast<int>(shared() % 5) - 2);
      }
      std::vector<int> order(values.size());
      for (int i = 0; i < static_cast<int>(order.size()); ++i)
        order[static_cast<std::size_t>(i)] = i;
      std::ranges::shuffle(order, own);
      std::vector<std::shared_ptr<Handle>> handles(values.size());
      for (const int i : order) {
        auto& mine = values[static_cast<std::size_t>(i)];
        const auto bytes = std::as_writable_bytes(std::span(mine));
        Request request{.name = fmt::format("t{}", i),
                        .params = {.dtype = DType::kFloat32,
                                   .priority = priorities[static_cast<std::size_t>(i)],
                                   .shape = {static_cast<std::int64_t>(mine.size())}},
                        .first_dims = {}};
        const bool waits = own() % 3 == 0;
        handles[static_cast<std::size_t>(i)] = self.Submit(std::move(request), bytes, bytes, waits);
      }
      std::ranges::shuffle(order, own);
      for (const int i : order) {
        ASSERT_TRUE(self.Wait(handles[static_cast<std::size_t>(i)]).ok());
        const auto& mine = values[static_cast<std::size_t>(i)];
        ASSERT_EQ(std::ranges::count(mine, static_cast<float>(3 + 3 * i)),
                  static_cast<std::ptrdiff_t>(mine.size()));
      }
    }
  });
}

}  // namespace
}  // namespace hora
