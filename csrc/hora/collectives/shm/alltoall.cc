#include <algorithm>
#include <numeric>
#include <span>

#include "hora/collectives/chunks.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/shm/algorithms.h"
#include "hora/collectives/shm/streaming.h"

namespace hora {
namespace {

// What the rank that sends most sends to others.
std::uint64_t LongestString(const CollectiveCall& call) {
  const auto size = static_cast<std::size_t>(call.size);
  std::uint64_t longest = 0;
  for (std::size_t from = 0; from < size; ++from) {
    const auto row = std::span(call.bytes_per_rank).subspan(from * size, size);
    const auto all = std::accumulate(row.begin(), row.end(), std::uint64_t{0});
    longest = std::max(longest, all - row[from]);
  }
  return longest;
}

// What rank s sends, strung together in the order of the receivers s + 1, s + 2, … (modulo size)
// and cut into chunks: step k is chunk k of everybody's string. Windows are full however uneven the
// parts are, so the steps are as few as the rank that sends most can do with; what remains of skew
// is that a step lasts as long as its busiest receiver reads. With even parts all ranks are at the
// same distance at the same time, so that each window has one reader.
class Alltoall {
 public:
  Alltoall(StepWindows& windows, CollectiveCall& call)
      : windows_(windows),
        call_(call),
        size_(windows.size()),
        chunks_(Chunks::Of(LongestString(call), windows.chunk_bytes())),
        past_caches_(Received() >= kPastCachesBytes),
        first_(windows.Begin("alltoall", chunks_.count)) {
    for (int distance = 1; distance < size_; ++distance) {
      begins_.push_back(BeginAt(SourceAt(distance), distance));
    }
  }

  // As in an allgather: every rank says at every step that it has placed its part, even when it has
  // nothing left, and step k + 1 is placed when all of step k - 1 is read. So `copied` releases.
  Status Run() {
    Status status;
    if (chunks_.count > 0) status = Place(0);
    CopyOwn();
    for (std::uint64_t k = 0; status.ok() && k < chunks_.count; ++k) {
      if (k + 1 < chunks_.count) status = Place(k + 1);
      if (status.ok()) status = ReadOthers(k);
    }
    return status;
  }

 private:
  struct Range {
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };

  std::uint64_t BytesFromTo(int from, int to) const {
    return call_.bytes_per_rank[static_cast<std::size_t>(from) * static_cast<std::size_t>(size_) +
                                static_cast<std::size_t>(to)];
  }
  std::uint64_t Received() const {
    std::uint64_t bytes = 0;
    for (const ByteStream& output : call_.outputs) bytes += output.size();
    return bytes;
  }
  int SourceAt(int distance) const { return (windows_.self() + size_ - distance) % size_; }
  int TargetAt(int distance) const { return (windows_.self() + distance) % size_; }

  // Where in the string of `from` the bytes for the rank at `distance` from it begin.
  std::uint64_t BeginAt(int from, int distance) const {
    std::uint64_t begin = 0;
    for (int i = 1; i < distance; ++i) begin += BytesFromTo(from, (from + i) % size_);
    return begin;
  }

  // The part of a string's [begin, begin + bytes) that is in chunk k.
  Range InChunk(std::uint64_t k, std::uint64_t begin, std::uint64_t bytes) const {
    const std::uint64_t chunk = chunks_.Offset(k);
    return {std::max(begin, chunk), std::min(begin + bytes, chunk + chunks_.BytesAt(k))};
  }

  Status Place(std::uint64_t k) {
    const std::uint64_t step = first_ + k;
    bool acquired = false;
    std::uint64_t begin = 0;
    for (int distance = 1; distance < size_; ++distance) {
      const int target = TargetAt(distance);
      const std::uint64_t bytes = BytesFromTo(windows_.self(), target);
      const Range part = InChunk(k, begin, bytes);
      if (part.begin < part.end) {
        if (!acquired) {
          if (Status status = windows_.Acquire(step); !status.ok()) return status;
          acquired = true;
        }
        call_.inputs[static_cast<std::size_t>(target)].Gather(part.begin - begin,
                                                              InWindow(windows_.self(), k, part));
      }
      begin += bytes;
    }
    windows_.PublishCopied(step);
    return Status::Ok();
  }

  Status ReadOthers(std::uint64_t k) {
    for (int distance = 1; distance < size_; ++distance) {
      const int source = SourceAt(distance);
      const std::uint64_t begin = begins_[static_cast<std::size_t>(distance - 1)];
      const Range part = InChunk(k, begin, BytesFromTo(source, windows_.self()));
      if (part.begin >= part.end) continue;
      if (Status status = windows_.AwaitCopied(source, first_ + k); !status.ok()) return status;
      ByteStream& output = call_.outputs[static_cast<std::size_t>(source)];
      if (past_caches_) {
        ScatterPastCaches(output, part.begin - begin, InWindow(source, k, part));
      } else {
        output.Scatter(part.begin - begin, InWindow(source, k, part));
      }
    }
    return Status::Ok();
  }

  std::span<std::byte> InWindow(int rank, std::uint64_t k, Range part) const {
    return {windows_.Window(rank, first_ + k) + (part.begin - chunks_.Offset(k)),
            static_cast<std::size_t>(part.end - part.begin)};
  }

  void CopyOwn() {
    const auto self = static_cast<std::size_t>(windows_.self());
    const auto copy = past_caches_ ? CopyPiecesPastCaches : CopyPieces;
    copy(call_.inputs[self], call_.outputs[self], 0, call_.inputs[self].size());
  }

  StepWindows& windows_;
  CollectiveCall& call_;
  const int size_;
  const Chunks chunks_;  // of the longest string
  const bool past_caches_;
  const std::uint64_t first_;
  // Where this rank's bytes begin in the string of the source at distance 1, 2, …
  std::vector<std::uint64_t> begins_;
};

}  // namespace

Status ShmAlltoall(StepWindows& windows, DirectCopy& direct, CollectiveCall& call) {
  if (direct.IsFor(LongestString(call))) {
    const Result<bool> done = direct.Run(windows, call, "alltoall");
    if (!done) return done.error();
    if (*done) return Status::Ok();
  }
  return Alltoall(windows, call).Run();
}

}  // namespace hora
