#include "hora/collectives/shm/step_windows.h"

#include <algorithm>
#include <utility>

#include "hora/base/check.h"
#include "hora/base/clock.h"
#include "hora/base/format.h"

namespace hora {
namespace {

// What more than two ranks move in a step.
constexpr std::size_t kSharedChunkBytes = 64u << 10;

// Looks before a wait becomes worth a clock reading.
constexpr int kQuickLooks = 64;

inline void PrefetchForWriting(const std::byte* line) {
#if defined(__x86_64__)
  // The builtin becomes a prefetch for reading unless the baseline has this; without it, a no-op.
  asm volatile("prefetchw %0" ::"m"(*line));
#else
  __builtin_prefetch(line, 1);
#endif
}

}  // namespace

bool StepWindows::Peer::HasCopied(std::uint64_t count) {
  if (copied < count) copied = flags->copied.load();
  return copied >= count;
}

bool StepWindows::Peer::HasReduced(std::uint64_t count) {
  if (reduced < count) reduced = flags->reduced.load();
  return reduced >= count;
}

bool StepWindows::Peer::HasReleased(std::uint64_t count) {
  const std::uint64_t implied_by = count + kLookAhead + 1;
  if (copied >= implied_by || reduced >= count) return true;
  return HasCopied(implied_by) || HasReduced(count);
}

StepWindows::StepWindows(std::shared_ptr<Board> board, ShmLaneOptions options)
    : board_(std::move(board)),
      options_(std::move(options)),
      interruptible_(static_cast<bool>(options_.interruption.wanted)),
      window_bytes_(board_->window_bytes(options_.lane) / 64 * 64),
      peers_(static_cast<std::size_t>(board_->size())) {
  Check(self() >= 0 && self() < board_->size(), "the rank has a place on the board");
  Check(window_bytes_ > 0, "a window holds at least one cache line");
  for (int rank = 0; rank < size(); ++rank) {
    peers_[static_cast<std::size_t>(rank)].flags = &board_->flags(rank).lane(options_.lane);
  }
  set_chunk_bytes(0);
}

void StepWindows::set_chunk_bytes(std::uint64_t bytes) {
  if (bytes == 0) bytes = DefaultChunkBytes();
  const std::uint64_t fitting = std::min<std::uint64_t>(bytes, window_bytes_);
  chunk_bytes_ = static_cast<std::size_t>(std::max<std::uint64_t>(fitting / 64, 1) * 64);
}

std::size_t StepWindows::DefaultChunkBytes() const {
  return size() <= 2 ? window_bytes_ : std::min(window_bytes_, kSharedChunkBytes);
}

std::uint64_t StepWindows::Begin(std::string_view what, std::uint64_t steps) {
  what_ = what;
  const std::uint64_t first = next_step_;
  next_step_ += steps;
  return first;
}

std::byte* StepWindows::Window(int rank, std::uint64_t step) const {
  return board_->window(options_.lane, rank, static_cast<int>(step % kWindowsPerRank)).data();
}

Status StepWindows::GiveWay() {
  return MustGiveWay() ? options_.interruption.give_way() : Status::Ok();
}

Status StepWindows::Acquire(std::uint64_t step) {
  if (Status status = GiveWay(); !status.ok()) return status;
  if (step < kWindowsPerRank) return Status::Ok();
  const std::uint64_t released = step - kWindowsPerRank + 1;
  return AwaitPeers("let go of step", step - kWindowsPerRank, 0, size(), [&](int rank) {
    return rank == self() || peers_[static_cast<std::size_t>(rank)].HasReleased(released);
  });
}

void StepWindows::OwnLines(std::uint64_t step, std::size_t bytes) const {
  const std::byte* const window = Window(self(), step);
  for (std::size_t at = 0; at < bytes; at += 64) PrefetchForWriting(window + at);
}

void StepWindows::PublishCopied(std::uint64_t step) {
  Peer& me = peers_[static_cast<std::size_t>(self())];
  me.copied = step + 1;
  me.flags->copied.store(step + 1);
  board_->RingAll(self(), false);
}

void StepWindows::PublishReduced(std::uint64_t step) {
  Peer& me = peers_[static_cast<std::size_t>(self())];
  me.reduced = step + 1;
  me.flags->reduced.store(step + 1);
  board_->RingAll(self(), false);
}

Status StepWindows::AwaitCopied(std::uint64_t step) {
  return AwaitPeers("brought its part of step", step, 0, size(), [&](int rank) {
    return peers_[static_cast<std::size_t>(rank)].HasCopied(step + 1);
  });
}

Status StepWindows::AwaitCopied(int rank, std::uint64_t step) {
  return AwaitPeers("brought its part of step", step, rank, rank + 1, [&](int) {
    return peers_[static_cast<std::size_t>(rank)].HasCopied(step + 1);
  });
}

Status StepWindows::AwaitReduced(std::uint64_t step) {
  return AwaitPeers("reduced its slice of step", step, 0, size(), [&](int rank) {
    return peers_[static_cast<std::size_t>(rank)].HasReduced(step + 1);
  });
}

Status StepWindows::ExchangeLines(std::string_view what) {
  what_ = what;
  const std::uint64_t count = ++exchanges_;
  Line(self(), count - 1).sequence.store(count);
  board_->RingAll(self(), false);
  Status status = AwaitPeers("brought line", count - 1, 0, size(), [&](int rank) {
    return Line(rank, count - 1).sequence.load() == count;
  });
  // Nobody looks at the other line any more: take it back before it is needed.
  PrefetchForWriting(reinterpret_cast<const std::byte*>(&Line(self(), count)));
  return status;
}

template <class Ready>
Status StepWindows::AwaitPeers(std::string_view phase, std::uint64_t step, int first, int last,
                               Ready ready) {
  int next = first;  // ranks before it are ready, and stay so
  const auto all_ready = [&] {
    while (next < last && ready(next)) ++next;
    return next == last;
  };
  if (all_ready()) return Status::Ok();
  const int looks = std::min(options_.wait.spins, kQuickLooks);
  for (int i = 0; i < looks; ++i) {
    CpuRelax();
    if (all_ready()) return Status::Ok();
  }
  const TimePoint deadline = SteadyClock::Instance().Now() + options_.patience;
  Status status;
  while (status.ok()) {
    status = board_->Await(self(), options_.wait, deadline,
                           [&] { return all_ready() || MustGiveWay(); });
    if (!status.ok() || all_ready()) break;
    status = options_.interruption.give_way();
  }
  if (status.code() != StatusCode::kTimeout) return status;
  std::vector<int> lagging;
  for (int rank = next; rank < last; ++rank) {
    if (!ready(rank)) lagging.push_back(rank);
  }
  return Stalled(phase, step, lagging);
}

Status StepWindows::Stalled(std::string_view phase, std::uint64_t step,
                            const std::vector<int>& lagging) const {
  std::string who;
  for (const int rank : lagging) {
    const LaneFlags& flags = *peers_[static_cast<std::size_t>(rank)].flags;
    const std::uint64_t lines =
        std::max(flags.lines[0].sequence.load(), flags.lines[1].sequence.load());
    who += fmt::format("{}rank {} (has brought {} steps, reduced {}, and {} lines)",
                       who.empty() ? "" : ", ", options_.names.Of(rank), flags.copied.load(),
                       flags.reduced.load(), lines);
  }
  return Error(StatusCode::kStalled,
               "{}: waited {:.3g} s, but these have not {} {} in shared memory: {}. Rank {} "
               "gives up; look at what those ranks are doing",
               what_, std::chrono::duration<double>(options_.patience).count(), phase, step, who,
               options_.names.Of(self()));
}

}  // namespace hora
