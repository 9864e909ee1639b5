#include "hora/control/liveness.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

#include "control/forked_child.h"
#include "control/meeting_point.h"
#include "hora/base/format.h"

namespace hora {
namespace {

using std::chrono::seconds;

constexpr WaitPolicy kSleepAtOnce{.spins = 0, .yield_for = Duration::zero()};

TimePoint In(Duration duration) { return SteadyClock::Instance().Now() + duration; }

// Blocks until somebody aborts the board; kTimeout when nobody does.
Status AwaitAbort(const Board& board, int self, Duration patience = seconds(20)) {
  return board.Await(self, kSleepAtOnce, In(patience), [] { return false; });
}

// A rank in a process of its own: forms the group, watches, says that it is there, then does
// `then`.
template <class Then>
int RunRank(const MeetingPoint& point, int rank, const Signal& there, Then&& then) {
  Result<HostGroup> group = FormHostGroup(point.OptionsOf(rank));
  if (!group) return 100;
  Liveness liveness(rank, std::move(group->peers), group->board);
  there.Give();
  return then(*group->board, liveness);
}

int SeesDeathOf(const Board& board, int self, int origin) {
  const Status status = AwaitAbort(board, self);
  const std::string start = fmt::format("rank {} (pid ", origin);
  if (status.code() != StatusCode::kPeerFailed || board.abort_origin() != origin) return 1;
  return status.message().starts_with(start) ? 0 : 2;
}

int Sleeps(const Board& board, Liveness&) { return AwaitAbort(board, 1, seconds(60)).ok() ? 1 : 3; }

class LivenessTest : public ::testing::Test {
 protected:
  MeetingPoint point_{3};
  Signal there_;
};

TEST_F(LivenessTest, ADeathReachesEverybodyWithinASecond) {
  ForkedChild victim([&] { return RunRank(point_, 1, there_, Sleeps); });
  ForkedChild witness([&] {
    return RunRank(point_, 2, there_,
                   [](const Board& board, Liveness&) { return SeesDeathOf(board, 2, 1); });
  });
  Result<HostGroup> group = FormHostGroup(point_.OptionsOf(0));
  ASSERT_TRUE(group) << group.error().ToString();
  Liveness liveness(0, group->peers, group->board);
  there_.Take();
  there_.Take();
  const TimePoint killed = SteadyClock::Instance().Now();
  victim.Kill();
  const Status status = AwaitAbort(*group->board, 0);
  const Duration latency = SteadyClock::Instance().Now() - killed;
  EXPECT_EQ(status.code(), StatusCode::kPeerFailed);
  EXPECT_EQ(group->board->abort_origin(), 1);
  EXPECT_TRUE(status.message().starts_with(
      fmt::format("rank 1 (pid {}) died: its connection ended without a goodbye", victim.pid())))
      << status.message();
  EXPECT_EQ(witness.Join(), 0);
  EXPECT_EQ(victim.Join(), -SIGKILL);
  std::printf("kill -9 seen after %.3f ms\n", std::chrono::duration<double>(latency).count() * 1e3);
  EXPECT_LE(latency, seconds(1));
}

TEST_F(LivenessTest, TheDeathOfRankZeroIsSeenByAllOthers) {
  ForkedChild root([&] { return RunRank(point_, 0, there_, Sleeps); });
  const auto sees_it = [](const Board& board, Liveness& liveness) {
    liveness.SayGoodbye();  // to a dead peer: must not end this process by a signal
    return SeesDeathOf(board, 1, 0);
  };
  ForkedChild first([&] { return RunRank(point_, 1, there_, sees_it); });
  ForkedChild second([&] { return RunRank(point_, 2, there_, sees_it); });
  for (int i = 0; i < 3; ++i) there_.Take();
  root.Kill();
  EXPECT_EQ(first.Join(), 0);
  EXPECT_EQ(second.Join(), 0);
}

TEST_F(LivenessTest, AGoodbyeIsNoDeath) {
  const auto leaves = [](const Board&, Liveness& liveness) {
    liveness.SayGoodbye();
    return 0;
  };
  ForkedChild first([&] { return RunRank(point_, 1, there_, leaves); });
  ForkedChild second([&] { return RunRank(point_, 2, there_, leaves); });
  Result<HostGroup> group = FormHostGroup(point_.OptionsOf(0));
  ASSERT_TRUE(group) << group.error().ToString();
  EXPECT_EQ(first.Join(), 0);
  EXPECT_EQ(second.Join(), 0);
  {
    // Goodbye and end-of-file lie ready: the watch meets them before it can stop.
    Liveness liveness(0, group->peers, group->board);
    EXPECT_EQ(AwaitAbort(*group->board, 0, std::chrono::milliseconds(50)).code(),
              StatusCode::kTimeout);
  }
  EXPECT_FALSE(group->board->aborted());
}

// Two ends of one connection, as rank 0 and rank 1 have them.
struct Pair {
  Pair() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0); }
  std::shared_ptr<Board> board = *Board::Create({.size = 2, .window_bytes = 4096});
  int ends[2] = {-1, -1};
};

TEST(Liveness, OtherBytesAreNamed) {
  Pair pair;
  Liveness liveness(0, {{.rank = 1, .pid = 4242, .fd = pair.ends[0]}}, pair.board);
  ASSERT_EQ(write(pair.ends[1], "\x7f", 1), 1);
  const Status status = AwaitAbort(*pair.board, 0);
  EXPECT_EQ(status, Status(StatusCode::kInternal,
                           "rank 1 (pid 4242) sent byte 0x7f where only a goodbye is allowed"));
  close(pair.ends[1]);
}

TEST(Liveness, TheFirstCauseStays) {
  Pair pair;
  const Status first(StatusCode::kStalled, "op 'w' never came");
  pair.board->Abort(1, first);
  {
    Liveness liveness(0, {{.rank = 1, .pid = 4242, .fd = pair.ends[0]}}, pair.board);
    close(pair.ends[1]);
  }
  EXPECT_EQ(pair.board->abort_status(), first);
}

TEST(Liveness, EndsWithoutItsPeersLeaveAndWithoutPeers) {
  Pair pair;
  const TimePoint start = SteadyClock::Instance().Now();
  { Liveness liveness(0, {{.rank = 1, .pid = 4242, .fd = pair.ends[0]}}, pair.board); }
  { Liveness nobody(0, {}, pair.board); }
  EXPECT_LT(SteadyClock::Instance().Now() - start, std::chrono::milliseconds(900))
      << "it was woken";
  char said = 0;
  EXPECT_EQ(recv(pair.ends[1], &said, 1, 0), 0) << "its end is closed";
  EXPECT_FALSE(pair.board->aborted());
  close(pair.ends[1]);
}

// Like a data loader's worker: it outlives the rank that forked it, and has its descriptors.
TEST_F(LivenessTest, ADeathIsSeenAlthoughAForkedChildLivesOn) {
  const Signal end;
  ForkedChild victim([&] {
    return RunRank(point_, 1, there_, [&](const Board& board, Liveness& liveness) {
      const Signal closed;
      const pid_t worker = fork();
      if (worker == 0) {
        alarm(60);  // also ends when the test fails
        liveness.CloseInForkedChild();
        closed.Give();
        end.Take();
        _exit(0);
      }
      closed.Take();
      there_.Give();
      return Sleeps(board, liveness);
    });
  });
  ForkedChild witness([&] {
    return RunRank(point_, 2, there_,
                   [](const Board& board, Liveness&) { return SeesDeathOf(board, 2, 1); });
  });
  Result<HostGroup> group = FormHostGroup(point_.OptionsOf(0));
  ASSERT_TRUE(group) << group.error().ToString();
  Liveness liveness(0, group->peers, group->board);
  for (int i = 0; i < 3; ++i) there_.Take();
  victim.Kill();
  EXPECT_EQ(SeesDeathOf(*group->board, 0, 1), 0);
  EXPECT_EQ(witness.Join(), 0);
  end.Give();
}

}  // namespace
}  // namespace hora
