#include "hora/shm/doorbell.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "gtest/gtest.h"

#include "hora/shm/board.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr WaitPolicy kSleepAtOnce{.spins = 0, .yield_for = Duration::zero()};
constexpr std::uint64_t kRounds = 5'000;

TimePoint In(Duration duration) { return SteadyClock::Instance().Now() + duration; }

void AwaitSleeper(const Doorbell& bell, Sleep depth) {
  while (bell.sleepers(depth) == 0) YieldCore();
}

// Each side sleeps until the other one has moved; a lost wake-up ends in the deadline.
Status PingPong(const Board& board, int self, std::uint64_t rounds) {
  const int other = 1 - self;
  for (std::uint64_t round = 1; round <= rounds; ++round) {
    if (self == 0) {
      board.flags(0).lane(Lane::kBulk).copied.store(round);
      board.RingAll(0, false);
    }
    const Status status = board.Await(self, kSleepAtOnce, In(seconds(20)), [&] {
      return board.flags(other).lane(Lane::kBulk).copied.load() >= round;
    });
    if (!status.ok()) return status;
    if (self == 1) {
      board.flags(1).lane(Lane::kBulk).copied.store(round);
      board.RingAll(1, false);
    }
  }
  return Status::Ok();
}

TEST(Doorbell, LosesNoWakeUpBetweenThreads) {
  auto board = *Board::Create({.size = 2, .window_bytes = 4096});
  Status other;
  std::thread thread([&] { other = PingPong(*board, 1, kRounds); });
  EXPECT_EQ(PingPong(*board, 0, kRounds), Status::Ok());
  thread.join();
  EXPECT_EQ(other, Status::Ok());
}

TEST(Doorbell, LosesNoWakeUpBetweenProcesses) {
  auto board = *Board::Create({.size = 2, .window_bytes = 4096});
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto attached = Board::Attach(dup(board->fd()), {.size = 2, .window_bytes = 4096});
    _exit(attached && PingPong(**attached, 1, kRounds).ok() ? 0 : 1);
  }
  EXPECT_EQ(PingPong(*board, 0, kRounds), Status::Ok());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// What a sleeper of this depth saw after one ring: kDeadline when it slept through it.
WakeReason ReasonAfterRing(Sleep depth, bool urgent, bool attended, Duration patience) {
  Doorbell bell;
  WakeReason reason{};
  std::thread sleeper(
      [&] { reason = bell.SleepUnless([] { return false; }, depth, In(patience)); });
  AwaitSleeper(bell, depth);
  if (attended) bell.BeginAttending();
  // A ring may come before the sleeper has read the counter, where it would count as slept through
  // only if nothing rings later: so keep ringing.
  while (bell.sleepers(depth) != 0) {
    bell.Ring(urgent);
    YieldCore();
  }
  sleeper.join();
  return reason;
}

TEST(Doorbell, WakesWhomItShould) {
  const Duration never = seconds(30);
  EXPECT_EQ(ReasonAfterRing(Sleep::kWaiting, false, false, never), WakeReason::kWoken);
  EXPECT_EQ(ReasonAfterRing(Sleep::kWaiting, false, true, never), WakeReason::kWoken);
  EXPECT_EQ(ReasonAfterRing(Sleep::kBackup, false, false, never), WakeReason::kWoken);
  EXPECT_EQ(ReasonAfterRing(Sleep::kBackup, true, true, never), WakeReason::kWoken);
  EXPECT_EQ(ReasonAfterRing(Sleep::kIdle, true, false, never), WakeReason::kWoken);
}

TEST(Doorbell, LeavesAsleepWhomItNeedNotWake) {
  const Duration soon = milliseconds(50);
  EXPECT_EQ(ReasonAfterRing(Sleep::kIdle, false, false, soon), WakeReason::kDeadline);
  Doorbell bell;
  bell.BeginAttending();
  std::atomic<bool> rung = false;
  std::thread ringer([&] {
    AwaitSleeper(bell, Sleep::kBackup);
    bell.Ring(false);
    rung = true;
  });
  EXPECT_EQ(bell.SleepUnless([] { return false; }, Sleep::kBackup, In(soon)),
            WakeReason::kDeadline);
  while (!rung) bell.SleepUnless([&] { return rung.load(); }, Sleep::kBackup, In(soon));
  ringer.join();
}

TEST(Doorbell, DoesNotSleepWhenThereIsSomethingToSee) {
  Doorbell bell;
  EXPECT_EQ(bell.SleepUnless([] { return true; }, Sleep::kIdle, In(seconds(30))),
            WakeReason::kWoken);
  EXPECT_EQ(bell.sleepers(Sleep::kIdle), 0u);
}

}  // namespace
}  // namespace hora
