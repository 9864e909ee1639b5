// Who has got how far in the shared windows: the flow control of every collective of a host.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hora/base/wait.h"
#include "hora/collectives/interruption.h"
#include "hora/shm/board.h"
#include "hora/tensor/rank_names.h"

namespace hora {

// What fits a line.
inline constexpr std::size_t kLineBytes = sizeof(InlineLine::payload);

// In what the rank that sends most sends to others. Below, two meetings and a call of the kernel
// cost more than a second copy.
inline constexpr std::uint64_t kDefaultDirectCopyBytes = 64u << 10;

// One rank's end of a lane.
struct ShmLaneOptions {
  Lane lane = Lane::kBulk;
  int rank = 0;
  WaitPolicy wait;
  Duration patience = std::chrono::seconds(300);  // for a peer in the middle of a collective
  RankNames names;                                // of the board's ranks, for errors
  Interruption interruption;                      // may be empty
  // From here on ranks read each other's memory, where they may.
  std::uint64_t direct_copy_bytes = kDefaultDirectCopyBytes;
};

// Collectives run in steps. Steps are numbered through the life of a lane, all ranks number them
// alike, and step s uses window s % kWindowsPerRank of each rank. Each rank publishes two counters:
//   copied = c   its windows of all steps before c hold what it had to put there;
//   reduced = c  it is done with the *other* ranks' windows of all steps before c.
//
// A rank refills its window for step s only when every peer has released step s - kWindowsPerRank.
// A peer has released the steps before
//   max(reduced, copied - kLookAhead - 1)
// because it places step t only when it is done with the others' windows of all steps before
// t - kLookAhead. So algorithms that answer every step with a step of their own need not publish
// `reduced` at all, and with four windows they never wait here: whoever places step s is done with
// step s - 2, hence has seen everybody place it, hence everybody has released step s - 4.
// Each algorithm states how it keeps the sentence after "because"; it then also holds across calls,
// as no rank starts a call before it is done with the one before.
//
// No deadlock: releasing step t needs all to have placed t; placing t + 1 needs all to have
// released t - 3. Both look to smaller numbers only.
//
// Beside the windows, every rank has two lines for operations of a few bytes, which it uses in
// turn: whoever posts line i has read everybody's line i - 1, so everybody has read line i - 2.
// They have a count of their own and use up no steps.
//
// One thread at a time. The Await, Acquire and Exchange calls block, at most `patience` each; they
// fail with the cause of an abort, or with kStalled naming the ranks that lag.
class StepWindows {
 public:
  static constexpr std::uint64_t kLookAhead = 1;

  StepWindows(std::shared_ptr<Board> board, ShmLaneOptions options);

  int self() const { return options_.rank; }
  int size() const { return static_cast<int>(peers_.size()); }
  std::size_t window_bytes() const { return window_bytes_; }  // a multiple of 64
  // What a step should fill of a window: at most all of it, a multiple of 64. Set between
  // collectives, by all ranks alike; 0 is DefaultChunkBytes, other values are cut to fit.
  std::size_t chunk_bytes() const { return chunk_bytes_; }
  void set_chunk_bytes(std::uint64_t bytes);
  // A whole window for two ranks; less for more, as each touches the windows of all, and those in
  // use should fit its share of a core's cache.
  std::size_t DefaultChunkBytes() const;

  // The steps of the collective that starts now; `what` is named in errors.
  std::uint64_t Begin(std::string_view what, std::uint64_t steps);

  std::byte* Window(int rank, std::uint64_t step) const;

  // Lets more urgent work go first, if there is any: between the steps of long work.
  Status GiveWay();
  // Until this rank may refill its window; gives way first.
  Status Acquire(std::uint64_t step);
  // A hint, worth giving before a wait: fetches the first `bytes` of this rank's window for
  // writing. Readers left their copies of these lines in other caches, and taking them back is what
  // a short copy-in spends its time on.
  void OwnLines(std::uint64_t step, std::size_t bytes) const;
  void PublishCopied(std::uint64_t step);  // placed its part of `step`
  void PublishReduced(std::uint64_t step);
  Status AwaitCopied(std::uint64_t step);  // by all
  Status AwaitCopied(int rank, std::uint64_t step);
  Status AwaitReduced(std::uint64_t step);  // by all

  // Where this rank's bytes of the next exchange go.
  std::byte* OwnLine() { return Line(self(), exchanges_).payload; }
  // Shows this rank's line to all and waits for theirs; `what` is named in errors.
  Status ExchangeLines(std::string_view what);
  // What the last exchange brought, until the next one.
  const std::byte* LineOf(int rank) { return Line(rank, exchanges_ - 1).payload; }

 private:
  // Another rank as last seen; its flags are read again only when this is not enough.
  struct Peer {
    LaneFlags* flags = nullptr;
    std::uint64_t copied = 0;
    std::uint64_t reduced = 0;

    bool HasCopied(std::uint64_t count);
    bool HasReduced(std::uint64_t count);
    bool HasReleased(std::uint64_t count);
  };

  InlineLine& Line(int rank, std::uint64_t exchange) {
    return peers_[static_cast<std::size_t>(rank)].flags->lines[exchange % 2];
  }
  template <class Ready>
  Status AwaitPeers(std::string_view phase, std::uint64_t step, int first, int last, Ready ready);
  bool MustGiveWay() const { return interruptible_ && options_.interruption.wanted(); }
  Status Stalled(std::string_view phase, std::uint64_t step, const std::vector<int>& lagging) const;

  std::shared_ptr<Board> board_;
  const ShmLaneOptions options_;
  const bool interruptible_;
  const std::size_t window_bytes_;
  std::size_t chunk_bytes_;
  std::vector<Peer> peers_;  // by rank, this one included
  std::uint64_t next_step_ = 0;
  std::uint64_t exchanges_ = 0;  // of lines, begun
  std::string_view what_;
};

}  // namespace hora
