#include "hora/base/wait.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <new>
#include <thread>
#include <vector>

namespace hora {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::seconds;

TimePoint In(Duration patience) { return SteadyClock::Instance().Now() + patience; }

TEST(WaitPolicy, SpinsOnlyWhileEveryRankHasACore) {
  EXPECT_GT(WaitPolicy::For(2, 2).spins, 0);
  EXPECT_GT(WaitPolicy::For(1, 2).spins, 0);
  EXPECT_EQ(WaitPolicy::For(3, 2).spins, 0);
}

TEST(Wait, KnowsAtLeastOneCore) { EXPECT_GE(UsableCores(), 1); }

TEST(YieldTurns, EndWithThePatience) {
  const WaitPolicy policy{.spins = 0, .yield_for = milliseconds(1)};
  const TimePoint begin = In(seconds(0));
  YieldTurns turns(policy, begin);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(turns.Take(begin + microseconds(100 * i))) << i;
  EXPECT_FALSE(turns.Take(begin + milliseconds(1)));
}

TEST(YieldTurns, EndWhenSomebodyElseKeepsTheCore) {
  const WaitPolicy policy{.spins = 0, .yield_for = seconds(1)};
  const TimePoint begin = In(seconds(0));
  YieldTurns turns(policy, begin);
  EXPECT_TRUE(turns.Take(begin + microseconds(300)));
  EXPECT_TRUE(turns.Take(begin + microseconds(600)));
  EXPECT_FALSE(turns.Take(begin + milliseconds(3)));
  EXPECT_FALSE(turns.Take(begin + milliseconds(3) + microseconds(1)));
}

TEST(FutexWait, ReturnsAtOnceWhenTheWordHasChanged) {
  std::atomic<std::uint32_t> word{1};
  EXPECT_EQ(FutexWait(word, 0, In(seconds(60))), WakeReason::kWoken);
}

TEST(FutexWait, EndsAtItsDeadline) {
  std::atomic<std::uint32_t> word{0};
  const TimePoint deadline = In(milliseconds(20));
  EXPECT_EQ(FutexWait(word, 0, deadline), WakeReason::kDeadline);
  EXPECT_GE(SteadyClock::Instance().Now(), deadline);
}

TEST(FutexWait, TakesPassedDeadlinesForWhatTheyAre) {
  std::atomic<std::uint32_t> word{0};
  EXPECT_EQ(FutexWait(word, 0, In(seconds(-1))), WakeReason::kDeadline);
  EXPECT_EQ(FutexWait(word, 0, TimePoint(Duration(-5))), WakeReason::kDeadline);
  EXPECT_EQ(FutexWait(word, 0, TimePoint::min()), WakeReason::kDeadline);
}

// Waits as users of FutexWait do: as long as the word has not changed.
bool AwaitChange(std::atomic<std::uint32_t>& word, TimePoint deadline) {
  while (word.load() == 0) {
    if (FutexWait(word, 0, deadline) == WakeReason::kDeadline) return word.load() != 0;
  }
  return true;
}

TEST(FutexWake, WakesEveryThread) {
  std::atomic<std::uint32_t> word{0};
  std::atomic<int> woken{0};
  std::latch started(3);
  std::vector<std::jthread> sleepers;
  for (int i = 0; i < 3; ++i) {
    sleepers.emplace_back([&] {
      started.count_down();
      woken += AwaitChange(word, In(seconds(60))) ? 1 : 0;
    });
  }
  started.wait();
  word = 1;
  FutexWakeAll(word);
  sleepers.clear();
  EXPECT_EQ(woken, 3);
}

TEST(FutexWake, ReachesAnotherProcess) {
  void* const shared = mmap(nullptr, sizeof(std::atomic<std::uint32_t>), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(shared, MAP_FAILED);
  auto& word = *new (shared) std::atomic<std::uint32_t>(0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(AwaitChange(word, In(seconds(60))) ? 0 : 1);
  word = 1;
  FutexWakeAll(word);
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  munmap(shared, sizeof(word));
}

TEST(SpinUntil, SeesWhatIsReady) {
  EXPECT_TRUE(SpinUntil(WaitPolicy{}, [] { return true; }));
  int looks = 0;
  EXPECT_TRUE(SpinUntil(WaitPolicy{.spins = 10}, [&] { return ++looks == 5; }));
  EXPECT_EQ(looks, 5);
}

// When: see YieldTurns.
TEST(SpinUntil, LosesPatience) {
  int looks = 0;
  const WaitPolicy policy{.spins = 3, .yield_for = milliseconds(2)};
  EXPECT_FALSE(SpinUntil(policy, [&] { return ++looks < 0; }));
  EXPECT_GE(looks, 5);  // the spins, one after a yield at least, and a last one
}

// It may end early when somebody else needs the core, which does not lose a turn.
TEST(SpinUntil, HandsOverBetweenThreads) {
  std::atomic<int> turn{0};
  const WaitPolicy policy{.yield_for = seconds(60)};
  const TimePoint deadline = In(seconds(60));
  const auto comes = [&](int wanted) {
    while (!SpinUntil(policy, [&] { return turn.load() == wanted; })) {
      if (SteadyClock::Instance().Now() > deadline) return false;
    }
    return true;
  };
  std::jthread other([&] {
    for (int i = 0; i < 100; ++i) {
      if (!comes(2 * i + 1)) return;
      turn.store(2 * i + 2);
    }
  });
  for (int i = 0; i < 100; ++i) {
    turn.store(2 * i + 1);
    ASSERT_TRUE(comes(2 * i + 2));
  }
}

}  // namespace
}  // namespace hora
