// The board: all that the ranks of one host share, in one segment.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "hora/base/check.h"
#include "hora/base/result.h"
#include "hora/shm/byte_ring.h"
#include "hora/shm/doorbell.h"
#include "hora/shm/segment.h"

namespace hora {

// Ways for data that do not wait for each other: each has its own windows, flags and lines.
enum class Lane : std::uint8_t {
  kUrgent,   // negotiated; small, or of a high priority
  kBulk,     // negotiated; everything else
  kOrdered,  // in program order, without negotiation
};
inline constexpr int kLaneCount = 3;

inline constexpr int kWindowsPerRank = 4;  // on each lane
inline constexpr std::size_t kMaxUrgentWindowBytes = 64u << 10;
inline constexpr std::size_t kControlRingBytes = 64u << 10;

// A few bytes and the number that says whose turn they are, in one cache line.
struct alignas(64) InlineLine {
  std::atomic<std::uint64_t> sequence;
  std::byte payload[56];
};

// Each flag has a cache line of its own: one rank writes it, all others poll it.
struct LaneFlags {
  // Steps for which this rank's window is filled, and for which its slice is reduced everywhere.
  alignas(64) std::atomic<std::uint64_t> copied;
  alignas(64) std::atomic<std::uint64_t> reduced;
  InlineLine lines[2];
};

struct RankFlags {
  Doorbell doorbell;
  LaneFlags lanes[kLaneCount];

  LaneFlags& lane(Lane which) { return lanes[static_cast<int>(which)]; }
};

struct BoardOptions {
  int size = 1;                           // ranks on this host
  std::size_t window_bytes = 256u << 10;  // those of the urgent lane may be smaller
  std::uint64_t generation = 0;  // of the job's membership; a board is never reused for another
};

// Owns the segment. Any thread may call the const members, Abort and RingAll; who writes which flag
// or ring is the business of control/ and collectives/. Offsets are fixed by size and window_bytes.
// Only Await blocks. A rank or index out of range breaks an invariant (InvariantError).
class Board {
 public:
  // kInvalidArgument for sizes that make no sense, kResource when the memory is not there.
  static Result<std::shared_ptr<Board>> Create(const BoardOptions& options);
  // Takes ownership of `fd`. Checks magic, version, sizes and generation before anything else.
  static Result<std::shared_ptr<Board>> Attach(int fd, const BoardOptions& expected);

  // The board of a process set, in memory that is added to `host`'s segment at `offset`, a multiple
  // of the page size. One rank of the set creates it; the others attach once it has. The memory
  // stays until the last process is gone; FreeWithin gives it back before, when no rank uses it any
  // more. Such a board outlives `host`; it has no descriptor.
  static Result<std::shared_ptr<Board>> CreateWithin(const Board& host, std::size_t offset,
                                                     const BoardOptions& options);
  static Result<std::shared_ptr<Board>> AttachWithin(const Board& host, std::size_t offset,
                                                     const BoardOptions& expected);
  static void FreeWithin(const Board& host, std::size_t offset, const BoardOptions& options);
  static std::size_t BytesFor(const BoardOptions& options);  // a multiple of the page size

  int size() const { return options_.size; }
  std::size_t window_bytes() const { return options_.window_bytes; }
  std::uint64_t generation() const { return options_.generation; }
  int fd() const { return segment_.fd(); }

  RankFlags& flags(int rank) const {
    Check(rank >= 0 && rank < options_.size, "a rank of this board");
    return flags_[rank];
  }
  std::size_t window_bytes(Lane lane) const;
  // The rank's windows: kWindowsPerRank pieces of fusion buffer that every rank reads and writes.
  std::span<std::byte> window(Lane lane, int rank, int index) const;
  ByteRing UpRing(int rank) const;    // from `rank` to its parent in the control tree
  ByteRing DownRing(int rank) const;  // from the parent to `rank`

  // Ends the group: the first cause wins, every rank is woken, every wait returns it. A text that
  // is longer than the board has room for (512 bytes) is cut.
  void Abort(int origin, const Status& cause);
  bool aborted() const;
  Status abort_status() const;  // OK unless aborted
  int abort_origin() const;     // -1 unless aborted

  void RingAll(int except_rank, bool urgent) const;

  // Waits (spin → yield → futex on `self`'s doorbell) until ready(), the abort of the group (its
  // status) or the deadline (kTimeout with an empty message). A signal does not end it.
  template <class Ready>
  Status Await(int self, const WaitPolicy& policy, TimePoint deadline, Ready&& ready) const {
    const auto over = [&] { return ready() || aborted(); };
    if (!SpinUntil(policy, over)) {
      Doorbell& bell = flags(self).doorbell;
      while (!over()) {
        if (bell.SleepUnless(over, Sleep::kWaiting, deadline) == WakeReason::kDeadline && !over()) {
          return Status(StatusCode::kTimeout, "");
        }
      }
    }
    return ready() ? Status::Ok() : abort_status();
  }

 private:
  struct Header;
  struct Layout;
  Board(Segment segment, const BoardOptions& options);
  static std::shared_ptr<Board> Begin(Segment segment, const BoardOptions& options);
  static Result<std::shared_ptr<Board>> Recognise(Segment segment, const BoardOptions& expected);
  ByteRing Ring(int index) const;

  Segment segment_;
  BoardOptions options_;
  Header* header_;
  RankFlags* flags_;            // by rank
  ByteRingState* ring_states_;  // up and down ring of rank 0, of rank 1, …
  std::byte* ring_bytes_;
  std::byte* windows_[kLaneCount];  // of each lane, by rank
};

}  // namespace hora
