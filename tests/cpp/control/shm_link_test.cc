#include "hora/control/shm_link.h"

#include <cstdint>
#include <iterator>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

#include "control/allocation_count.h"
#include "control/forked_child.h"
#include "hora/wire/codec.h"

namespace hora {
namespace {

using std::chrono::seconds;

constexpr BoardOptions kOptions{.size = 3, .window_bytes = 4096};
constexpr WaitPolicy kSleepAtOnce{.spins = 0, .yield_for = Duration::zero()};
constexpr std::size_t kRing = kControlRingBytes;
constexpr std::size_t kSizes[] = {
    0, 1, 3, 4, 5, 100, 4096, kRing - 4, kRing - 3, kRing, kRing + 1, 3 * kRing + 17, 1'000'003};

std::vector<std::byte> Frame(std::size_t size, unsigned seed) {
  std::minstd_rand random(seed + 1);
  std::vector<std::byte> frame(size);
  for (std::byte& byte : frame) byte = static_cast<std::byte>(random());
  return frame;
}

struct Edge {
  std::shared_ptr<Board> board = *Board::Create(kOptions);
  std::unique_ptr<ShmLink> parent = ShmLink::ToChild(board, 0, 1);
  std::unique_ptr<ShmLink> child = ShmLink::ToParent(board, 1, 0);
};

TEST(ShmLink, KeepsOrderAndContentsBothWays) {
  Edge edge;
  for (const auto& [from, to] : {std::pair{edge.parent.get(), edge.child.get()},
                                 std::pair{edge.child.get(), edge.parent.get()}}) {
    unsigned seed = 0;
    for (const std::size_t size : kSizes) {
      ASSERT_EQ(from->Send(Frame(size, ++seed), false), Status::Ok());
    }
    seed = 0;
    std::vector<std::byte> frame;
    for (const std::size_t size : kSizes) {
      while (!to->Receive(frame)) from->Flush();
      ASSERT_TRUE(frame == Frame(size, ++seed)) << size;
    }
    EXPECT_TRUE(from->Flush());
    EXPECT_FALSE(to->Receive(frame));
    EXPECT_FALSE(to->NeedsAttention());
    EXPECT_FALSE(from->NeedsAttention());
  }
}

TEST(ShmLink, AsksForAttentionWhenThereIsSomethingToDo) {
  Edge edge;
  std::vector<std::byte> frame;
  ASSERT_TRUE(edge.parent->Send(Frame(10, 1), false).ok());
  EXPECT_TRUE(edge.child->NeedsAttention());
  EXPECT_FALSE(edge.parent->NeedsAttention());
  EXPECT_TRUE(edge.child->Receive(frame));
  EXPECT_FALSE(edge.child->NeedsAttention());

  ASSERT_TRUE(edge.parent->Send(Frame(2 * kControlRingBytes, 1), false).ok());
  EXPECT_FALSE(edge.parent->NeedsAttention()) << "it can do nothing: the ring is full";
  EXPECT_FALSE(edge.child->Receive(frame));
  EXPECT_TRUE(edge.parent->NeedsAttention()) << "there is room again";
}

// Sends frames of every size and echoes what comes, sleeping whenever there is nothing to do: a
// ring that was not rung ends in the deadline.
Status Exchange(const Board& board, ShmLink& link, int self, int frames) {
  std::vector<std::byte> frame;
  int received = 0;
  for (int i = 0; i < frames; ++i) {
    const std::size_t size = kSizes[i % std::size(kSizes)];
    if (Status status = link.Send(Frame(size, i), false); !status.ok()) return status;
  }
  for (bool flushed = false; received < frames || !flushed;) {
    while (link.Receive(frame)) {
      const std::size_t size = kSizes[received % std::size(kSizes)];
      if (frame != Frame(size, received)) return Status(StatusCode::kMismatch, "other bytes");
      ++received;
    }
    flushed = link.Flush();
    if (received == frames && flushed) break;
    const TimePoint deadline = SteadyClock::Instance().Now() + seconds(30);
    const Status status =
        board.Await(self, kSleepAtOnce, deadline, [&] { return link.NeedsAttention(); });
    if (!status.ok()) return status;
  }
  return link.status();
}

TEST(ShmLink, TwoThreadsDrownEachOther) {
  Edge edge;
  Status other;
  std::thread thread([&] { other = Exchange(*edge.board, *edge.child, 1, 40); });
  EXPECT_EQ(Exchange(*edge.board, *edge.parent, 0, 40), Status::Ok());
  thread.join();
  EXPECT_EQ(other, Status::Ok());
}

TEST(ShmLink, TwoProcessesDrownEachOther) {
  Edge edge;
  ForkedChild process([&] { return Exchange(*edge.board, *edge.child, 1, 40).ok() ? 0 : 1; });
  EXPECT_EQ(Exchange(*edge.board, *edge.parent, 0, 40), Status::Ok());
  EXPECT_EQ(process.Join(), 0);
}

// An idle neighbour hears of an urgent frame also when only a later flush completes it.
TEST(ShmLink, UrgentFramesWakeTheIdle) {
  Edge edge;
  ASSERT_TRUE(edge.parent->Send(Frame(kControlRingBytes + 10, 1), true).ok());
  std::vector<std::byte> frame;
  EXPECT_FALSE(edge.child->Receive(frame));
  WakeReason reason{};
  Doorbell& bell = edge.board->flags(1).doorbell;
  std::thread idle([&] {
    reason = bell.SleepUnless([&] { return edge.child->NeedsAttention(); }, Sleep::kIdle,
                              SteadyClock::Instance().Now() + seconds(30));
  });
  while (bell.sleepers(Sleep::kIdle) == 0) YieldCore();
  EXPECT_TRUE(edge.parent->Flush());
  idle.join();
  EXPECT_EQ(reason, WakeReason::kWoken);
  EXPECT_TRUE(edge.child->Receive(frame));
}

TEST(ShmLink, SteadyStateDoesNotAllocate) {
  Edge edge;
  const auto message = Frame(300, 1);
  const auto large = Frame(kControlRingBytes + 300, 2);
  std::vector<std::byte> frame;
  std::uint64_t before = 0;
  for (int round = 0; round < 20; ++round) {
    if (round == 10) before = AllocationCount();
    for (const auto& sent : {std::span(message), std::span(large)}) {
      (void)edge.child->Send(sent, false);
      while (!edge.parent->Receive(frame)) edge.child->Flush();
    }
  }
  EXPECT_EQ(AllocationCount(), before);
}

TEST(ShmLink, RefusesToSendWhatTheOtherSideWouldRefuse) {
  Edge edge;
  const std::vector<std::byte> frame(kMaxFrameBytes + 1);
  const Status status = edge.parent->Send(frame, false);
  EXPECT_EQ(status.code(), StatusCode::kResource);
  EXPECT_NE(status.message().find("to rank 1 is too large"), std::string::npos);
  EXPECT_EQ(edge.parent->status(), Status::Ok());
  EXPECT_FALSE(edge.child->NeedsAttention()) << "nothing of it was sent";
}

TEST(ShmLink, AnImpossibleLengthEndsTheLinkWithoutAllocating) {
  Edge edge;
  const std::uint32_t length = kMaxFrameBytes + 1;
  edge.board->UpRing(1).Write(std::as_bytes(std::span(&length, 1)));
  std::vector<std::byte> frame;
  const std::uint64_t before = AllocationCount();
  EXPECT_FALSE(edge.parent->Receive(frame));
  EXPECT_LT(AllocationCount() - before, 5u);
  EXPECT_EQ(edge.parent->status().code(), StatusCode::kInternal);
  EXPECT_NE(edge.parent->status().message().find("rank 1 sent a control message of 67108865 bytes"),
            std::string::npos);
  EXPECT_FALSE(edge.parent->Receive(frame));
  EXPECT_EQ(edge.parent->Send(frame, false), edge.parent->status());
}

TEST(ShmLink, BelievesALengthOnlyAsFarAsItsBytesHaveCome) {
  Edge edge;
  const std::uint32_t length = kMaxFrameBytes;
  edge.board->UpRing(1).Write(std::as_bytes(std::span(&length, 1)));
  std::vector<std::byte> frame;
  EXPECT_FALSE(edge.parent->Receive(frame));
  EXPECT_EQ(edge.parent->status(), Status::Ok());
  edge.board->UpRing(1).Write(Frame(1000, 1));
  EXPECT_FALSE(edge.parent->Receive(frame));
  EXPECT_EQ(edge.parent->status(), Status::Ok());
}

}  // namespace
}  // namespace hora
