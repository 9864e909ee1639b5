#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <utility>

#include "collectives/shm_group.h"
#include "hora/collectives/shm/direct_copy.h"
#include "hora/collectives/shm/streaming.h"

namespace hora {
namespace {

constexpr std::size_t kWindow = 4096;
constexpr Duration kPatience = std::chrono::seconds(60);

std::uint64_t StepsOf(ShmGroup& group) {
  return group.board().flags(0).lane(Lane::kBulk).copied.load();
}

Bytes Sent(std::uint64_t bytes, int from, int to) {
  return RandomBytes(bytes, static_cast<std::uint64_t>(from * 64 + to));
}

// Each rank sends `bytes` and a few more to each, in `count` pieces.
struct Exchange {
  Exchange(int rank, int size, std::size_t bytes, int count) : rank_(rank) {
    for (int from = 0; from < size; ++from) {
      for (int to = 0; to < size; ++to) matrix_.push_back(Length(bytes, from, to));
    }
    for (int other = 0; other < size; ++other) {
      inputs_.emplace_back(Sent(Length(bytes, rank, other), rank, other), count, 1, other);
      outputs_.emplace_back(Bytes(Length(bytes, other, rank)), count + 1, 1, other + 9);
    }
  }

  static std::size_t Length(std::size_t bytes, int from, int to) {
    return bytes + static_cast<std::size_t>(3 * from + to);
  }
  CollectiveCall Call() { return AlltoallCall(matrix_, StreamsOf(inputs_), StreamsOf(outputs_)); }
  bool IsRight() const {
    for (std::size_t other = 0; other < outputs_.size(); ++other) {
      const Bytes contents = outputs_[other].Contents();
      if (contents != Sent(contents.size(), static_cast<int>(other), rank_)) return false;
    }
    return true;
  }

 private:
  int rank_;
  std::vector<std::uint64_t> matrix_;
  std::vector<Pieces> inputs_, outputs_;
};

class ShmDirectCopy : public testing::TestWithParam<int> {};

TEST_P(ShmDirectCopy, TakesTwoStepsHoweverLargeAndInWhateverPieces) {
  for (const std::size_t bytes : {std::size_t{1}, std::size_t{5000}, std::size_t{1300000}}) {
    for (const int pieces : {1, 2, 60}) {
      ShmGroup group(GetParam(), 4 * kWindow, kPatience, 1);
      group.RunOk([&](int rank, ShmBackend& backend) {
        Exchange exchange(rank, group.size(), bytes, pieces);
        CollectiveCall call = exchange.Call();
        Status status = backend.Execute(call);
        EXPECT_TRUE(exchange.IsRight()) << "rank " << rank << ", " << bytes << " bytes";
        return status;
      });
      EXPECT_EQ(StepsOf(group), 2u);
    }
  }
}

TEST_P(ShmDirectCopy, LeavesToTheWindowsWhatLiesInTooManyPieces) {
  ShmGroup group(GetParam(), kWindow, kPatience, 1);
  for (const int pieces : {1000, 1}) {  // it may be direct again after that
    const std::uint64_t before = StepsOf(group);
    group.RunOk([&](int rank, ShmBackend& backend) {
      Exchange exchange(rank, group.size(), 20000, pieces);
      CollectiveCall call = exchange.Call();
      Status status = backend.Execute(call);
      EXPECT_TRUE(exchange.IsRight()) << "rank " << rank << ", " << pieces << " pieces";
      return status;
    });
    if (pieces == 1) {
      EXPECT_EQ(StepsOf(group) - before, 2u);
    } else {
      EXPECT_GT(StepsOf(group) - before, 2u);
    }
  }
}

TEST_P(ShmDirectCopy, GathersUnevenParts) {
  ShmGroup group(GetParam(), kWindow, kPatience, 1000);
  const auto length = [](int rank) { return static_cast<std::size_t>(rank % 2 * 70000 + rank); };
  group.RunOk([&](int rank, ShmBackend& backend) {
    Pieces in(Sent(length(rank), rank, 0), 5, 1, 3);
    std::vector<Pieces> outputs;
    for (int q = 0; q < group.size(); ++q) outputs.emplace_back(Bytes(length(q)), 1 + q, 1, 4);
    CollectiveCall call = AllgatherCall(in.Stream(), StreamsOf(outputs));
    Status status = backend.Execute(call);
    for (int q = 0; q < group.size(); ++q) {
      EXPECT_TRUE(outputs[q].Contents() == Sent(length(q), q, 0)) << "rank " << rank << " of " << q;
    }
    return status;
  });
  EXPECT_EQ(StepsOf(group), 2u);
}

std::atomic<int> reads_before_refusal{0};

ssize_t ReadForAWhile(pid_t process, const iovec* here, unsigned long here_count,
                      const iovec* there, unsigned long there_count, unsigned long flags) noexcept {
  if (--reads_before_refusal >= 0) {
    return process_vm_readv(process, here, here_count, there, there_count, flags);
  }
  errno = EPERM;
  return -1;
}

// One rank is refused, at the first read or later; all must hear of it, and no rank tries again.
TEST_P(ShmDirectCopy, IsGivenUpByAllWhenOneIsRefused) {
  const int size = GetParam();
  for (const int allowed : {0, 1, 2}) {
    reads_before_refusal = allowed;
    auto board = Board::Create({.size = size, .window_bytes = kWindow}).value();
    std::vector<std::jthread> ranks;
    for (int rank = 0; rank < size; ++rank) {
      ranks.emplace_back([&, rank] {
        StepWindows windows(board, {.rank = rank, .wait = WaitPolicy::For(size, UsableCores())});
        DirectCopy direct(windows, 1, rank == size - 1 ? ReadForAWhile : process_vm_readv);
        Exchange exchange(rank, size, 1 << 20, 1);  // more than one read from each
        CollectiveCall call = exchange.Call();
        EXPECT_TRUE(direct.IsFor(1 << 20));
        const Result<bool> done = direct.Run(windows, call, "alltoall");
        ASSERT_TRUE(done.has_value()) << done.error().ToString();
        EXPECT_FALSE(*done);
        EXPECT_FALSE(direct.IsFor(1 << 20));
      });
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ranks, ShmDirectCopy, testing::Values(2, 3, 4),
                         testing::PrintToStringParamName());

// Where tests may not read another process's memory, the windows are used: also right.
TEST(ShmDirectCopyOfProcesses, MovesTheRightBytes) {
  auto board = Board::Create({.size = 2, .window_bytes = kWindow}).value();
  const auto run = [&](int rank) {
    ShmBackend backend(board, {.rank = rank,
                               .wait = WaitPolicy::For(2, UsableCores()),
                               .patience = std::chrono::seconds(20),
                               .direct_copy_bytes = 1});
    for (int i = 0; i < 3; ++i) {
      Exchange exchange(rank, 2, 300000, 3);
      CollectiveCall call = exchange.Call();
      if (!backend.Execute(call).ok() || !exchange.IsRight()) return false;
    }
    return true;
  };
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(run(1) ? 0 : 1);
  EXPECT_TRUE(run(0));
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(CopyPastCaches, CopiesWhateverTheAlignment) {
  constexpr std::size_t kMost = 40000;
  const Bytes source = RandomBytes(kMost + 64, 5);
  for (const std::size_t count : {0, 1, 63, 64, 130, 4096, 16384, 16385, 39999}) {
    for (const std::size_t from : {0, 1, 20}) {
      for (const std::size_t to : {0, 1, 16, 63}) {
        Bytes target(kMost + 128, std::byte{0xee});
        CopyPastCaches(target.data() + to, source.data() + from, count);
        Bytes expected(kMost + 128, std::byte{0xee});
        std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(from), count,
                    expected.begin() + static_cast<std::ptrdiff_t>(to));
        EXPECT_TRUE(target == expected) << count << " bytes from " << from << " to " << to;
      }
    }
  }
}

TEST(CopyPastCaches, IsHowLargeResultsAreWritten) {
  constexpr std::size_t kLarge = kPastCachesBytes / 2 + 12345;
  ShmGroup group(2, 1u << 20, kPatience, /*direct_copy_bytes=*/std::uint64_t{1} << 40);
  group.RunOk([&](int rank, ShmBackend& backend) {
    Exchange exchange(rank, 2, kLarge, 3);
    CollectiveCall call = exchange.Call();
    Status status = backend.Execute(call);
    EXPECT_TRUE(exchange.IsRight()) << "rank " << rank;
    if (!status.ok()) return status;
    Pieces in(Sent(kLarge, rank, 0), 2, 1, 3);
    std::vector<Pieces> outputs(2, Pieces(Bytes(kLarge), 2, 1, 4));
    call = AllgatherCall(in.Stream(), StreamsOf(outputs));
    status = backend.Execute(call);
    for (int q = 0; q < 2; ++q) EXPECT_TRUE(outputs[q].Contents() == Sent(kLarge, q, 0));
    return status;
  });
}

}  // namespace
}  // namespace hora
