#include "hora/shm/board.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <thread>

#include "gtest/gtest.h"

namespace hora {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr BoardOptions kOptions{.size = 3, .window_bytes = 5000, .generation = 9};

TimePoint In(Duration duration) { return SteadyClock::Instance().Now() + duration; }

std::shared_ptr<Board> NewBoard() {
  auto board = Board::Create(kOptions);
  EXPECT_TRUE(board) << board.error().ToString();
  return *board;
}

TEST(Board, WindowsAreApartPageAlignedAndZero) {
  auto board = NewBoard();
  std::set<std::byte*> starts;
  for (int number = 0; number < kLaneCount * 3; ++number) {
    const auto lane = static_cast<Lane>(number / 3);
    for (int index = 0; index < kWindowsPerRank; ++index) {
      const auto window = board->window(lane, number % 3, index);
      ASSERT_EQ(window.size(), 5000u);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(window.data()) % 4096, 0u);
      EXPECT_TRUE(
          std::all_of(window.begin(), window.end(), [](auto b) { return b == std::byte{0}; }));
      std::fill(window.begin(), window.end(), std::byte{0xff});
      starts.insert(window.data());
    }
  }
  EXPECT_EQ(starts.size(), 36u);
  EXPECT_GE(*std::next(starts.begin()) - *starts.begin(), 5000);
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(board->flags(rank).lane(Lane::kBulk).copied, 0u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&board->flags(rank)) % 64, 0u);
    EXPECT_TRUE(board->UpRing(rank).empty());
    EXPECT_TRUE(board->DownRing(rank).empty());
  }
  EXPECT_THROW(board->flags(3), InvariantError);
  EXPECT_THROW(board->window(Lane::kBulk, 0, kWindowsPerRank), InvariantError);
  EXPECT_THROW(board->UpRing(-1), InvariantError);
}

TEST(Board, RingsDoNotTouchEachOtherOrTheWindows) {
  auto board = NewBoard();
  const std::vector<std::byte> full(kControlRingBytes, std::byte{0xee});
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_EQ(board->UpRing(rank).Write(full), kControlRingBytes);
    EXPECT_TRUE(board->DownRing(rank).empty());
    EXPECT_TRUE(rank == 2 || board->UpRing(rank + 1).empty());
  }
  EXPECT_EQ(board->window(Lane::kBulk, 0, 0)[0], std::byte{0});
  EXPECT_FALSE(board->aborted());
}

TEST(Board, AttachedBoardIsTheSameBoard) {
  auto board = NewBoard();
  auto attached = Board::Attach(dup(board->fd()), kOptions);
  ASSERT_TRUE(attached) << attached.error().ToString();
  board->window(Lane::kBulk, 2, 3)[4999] = std::byte{5};
  EXPECT_EQ((*attached)->window(Lane::kBulk, 2, 3)[4999], std::byte{5});
  (*attached)->flags(1).lane(Lane::kOrdered).reduced = 77;
  EXPECT_EQ(board->flags(1).lane(Lane::kOrdered).reduced, 77u);
  EXPECT_EQ((*attached)->generation(), 9u);
}

TEST(Board, AttachRefusesWhatItDoesNotExpect) {
  auto board = NewBoard();
  const BoardOptions others[] = {{.size = 2, .window_bytes = 5000, .generation = 9},
                                 {.size = 3, .window_bytes = 5001, .generation = 9},
                                 {.size = 3, .window_bytes = 5000, .generation = 8}};
  for (const BoardOptions& expected : others) {
    const auto attached = Board::Attach(dup(board->fd()), expected);
    ASSERT_FALSE(attached);
    EXPECT_EQ(attached.error().code(), StatusCode::kInternal);
    EXPECT_NE(attached.error().message().find("generation 9"), std::string::npos);
  }
  EXPECT_FALSE(Board::Attach(dup(board->fd()), {.size = -1, .window_bytes = 1}));

  auto stranger = Segment::Create(1 << 20);
  ASSERT_TRUE(stranger);
  const auto attached = Board::Attach(dup(stranger->fd()), kOptions);
  ASSERT_FALSE(attached);
  EXPECT_NE(attached.error().message().find("not a board"), std::string::npos);
  auto tiny = Segment::Create(16);
  EXPECT_FALSE(Board::Attach(dup(tiny->fd()), kOptions));
}

TEST(Board, OfAProcessSetLivesBehindTheHosts) {
  auto host = NewBoard();
  const BoardOptions options{.size = 2, .window_bytes = 5000, .generation = 12};
  const std::size_t offset = Board::BytesFor(kOptions);
  EXPECT_EQ(offset % static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), 0u);
  EXPECT_FALSE(Board::AttachWithin(*host, offset, options)) << "nobody has made it yet";
  auto made = Board::CreateWithin(*host, offset, options);
  ASSERT_TRUE(made) << made.error().ToString();
  auto other_host = *Board::Attach(dup(host->fd()), kOptions);
  auto seen = Board::AttachWithin(*other_host, offset, options);
  ASSERT_TRUE(seen) << seen.error().ToString();
  EXPECT_FALSE(Board::AttachWithin(*host, offset, {.size = 2, .window_bytes = 5000}))
      << "of another generation";

  host.reset();
  (*made)->window(Lane::kBulk, 1, 3)[4999] = std::byte{5};
  EXPECT_EQ((*seen)->window(Lane::kBulk, 1, 3)[4999], std::byte{5});
  (*made)->Abort(1, Status(StatusCode::kPeerFailed, "gone"));
  EXPECT_TRUE((*seen)->aborted());
  EXPECT_FALSE(other_host->aborted()) << "each board is aborted by itself";
}

TEST(Board, MemoryOfARemovedProcessSetIsGivenBack) {
  auto host = NewBoard();
  const BoardOptions options{.size = 3, .window_bytes = 1u << 20, .generation = 1};
  const auto blocks = [&] {
    struct stat about {};
    EXPECT_EQ(fstat(host->fd(), &about), 0);
    return about.st_blocks;
  };
  const auto before = blocks();
  std::size_t offset = Board::BytesFor(kOptions);
  for (int i = 0; i < 20; ++i, offset += Board::BytesFor(options)) {
    ASSERT_TRUE(Board::CreateWithin(*host, offset, options));
    EXPECT_GT(blocks(), before);
    Board::FreeWithin(*host, offset, options);
    EXPECT_EQ(blocks(), before);
  }
  EXPECT_EQ(Board::CreateWithin(*host, offset, {.size = 0}).error().code(),
            StatusCode::kInvalidArgument);
}

TEST(Board, RefusesSizesWithoutSense) {
  EXPECT_EQ(Board::Create({.size = 0}).error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Board::Create({.size = 1 << 30}).error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Board::Create({.window_bytes = 0}).error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Board::Create({.window_bytes = ~std::size_t{0}}).error().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(Board::Create({.size = 1000, .window_bytes = std::size_t{1} << 36}).error().code(),
            StatusCode::kResource);
}

TEST(Board, TheFirstAbortWins) {
  auto board = NewBoard();
  EXPECT_EQ(board->abort_origin(), -1);
  EXPECT_EQ(board->abort_status(), Status::Ok());
  auto attached = *Board::Attach(dup(board->fd()), kOptions);
  attached->Abort(2, Status(StatusCode::kPeerFailed, "rank 2 died"));
  board->Abort(1, Status(StatusCode::kInternal, "later"));
  for (const auto& view : {board, attached}) {
    EXPECT_TRUE(view->aborted());
    EXPECT_EQ(view->abort_origin(), 2);
    EXPECT_EQ(view->abort_status(), Status(StatusCode::kPeerFailed, "rank 2 died"));
  }
}

TEST(Board, ALongCauseIsCutBetweenCharacters) {
  auto board = NewBoard();
  std::string text = "x";
  for (int i = 0; i < 400; ++i) text += "é";
  board->Abort(0, Status(StatusCode::kMismatch, text));
  EXPECT_EQ(board->abort_status().message(), text.substr(0, 511));
}

TEST(Board, ManyAbortersAgreeOnOneCause) {
  auto board = NewBoard();
  std::vector<Status> seen(8);
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        board->Abort(i % 3, Status(StatusCode::kStalled, std::to_string(i)));
        seen[i] = board->abort_status();
      });
    }
  }
  for (const Status& status : seen) EXPECT_EQ(status, board->abort_status());
  EXPECT_EQ(board->abort_origin(), std::stoi(board->abort_status().message()) % 3);
}

TEST(Board, AbortEndsEveryWait) {
  auto board = NewBoard();
  std::vector<Status> seen(3);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([&, rank] {
      const auto never = [] { return false; };
      seen[rank] = board->Await(rank, WaitPolicy{}, In(seconds(30)), never);
    });
  }
  for (int rank = 0; rank < 3; ++rank) {
    while (board->flags(rank).doorbell.sleepers(Sleep::kWaiting) == 0) YieldCore();
  }
  board->Abort(1, Status(StatusCode::kPeerFailed, "gone"));
  threads.clear();
  for (const Status& status : seen) EXPECT_EQ(status, Status(StatusCode::kPeerFailed, "gone"));
}

TEST(Board, AwaitEndsAtItsDeadlineAndPrefersSuccess) {
  auto board = NewBoard();
  const auto never = [] { return false; };
  const auto always = [] { return true; };
  EXPECT_EQ(board->Await(0, WaitPolicy{}, In(milliseconds(5)), never),
            Status(StatusCode::kTimeout, ""));
  EXPECT_EQ(board->Await(0, WaitPolicy{}, In(milliseconds(5)), always), Status::Ok());
  board->Abort(1, Status(StatusCode::kPeerFailed, "gone"));
  EXPECT_EQ(board->Await(0, WaitPolicy{}, In(milliseconds(5)), always), Status::Ok());
}

}  // namespace
}  // namespace hora
