#include <algorithm>
#include <numeric>
#include <span>

#include "hora/collectives/chunks.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/shm/algorithms.h"
#include "hora/collectives/shm/streaming.h"

namespace hora {
namespace {

class Allgather {
 public:
  Allgather(StepWindows& windows, CollectiveCall& call)
      : windows_(windows),
        call_(call),
        longest_(Chunks::Of(*std::ranges::max_element(call.bytes_per_rank), windows.chunk_bytes())),
        past_caches_(std::reduce(call.bytes_per_rank.begin(), call.bytes_per_rank.end()) >=
                     kPastCachesBytes),
        first_(windows.Begin("allgather", longest_.count)) {}

  // Every rank says at every step that it has placed its part, even when it has nothing left: that
  // releases the steps which it has read. Step k + 1 is placed when all of step k - 1 is read.
  Status Run() {
    Status status;
    if (longest_.count > 0) status = Place(0);
    for (std::uint64_t k = 0; status.ok() && k < longest_.count; ++k) {
      if (k + 1 < longest_.count) status = Place(k + 1);
      if (status.ok()) status = ReadOthers(k);
    }
    return status;
  }

 private:
  // What `rank` contributes to step k.
  std::size_t BytesOf(int rank, std::uint64_t k) const {
    Chunks own = longest_;
    own.total = call_.bytes_per_rank[static_cast<std::size_t>(rank)];
    return own.BytesAt(k);
  }

  Status Place(std::uint64_t k) {
    const int self = windows_.self();
    const std::size_t bytes = BytesOf(self, k);
    if (bytes > 0) {
      if (Status status = windows_.Acquire(first_ + k); !status.ok()) return status;
      call_.inputs[0].Gather(longest_.Offset(k), {windows_.Window(self, first_ + k), bytes});
    }
    windows_.PublishCopied(first_ + k);
    ByteStream& own_output = call_.outputs[static_cast<std::size_t>(self)];
    const auto copy = past_caches_ ? CopyPiecesPastCaches : CopyPieces;
    copy(call_.inputs[0], own_output, longest_.Offset(k), bytes);
    return Status::Ok();
  }

  // Begins with the next rank, so that the ranks do not all read the same window at once.
  Status ReadOthers(std::uint64_t k) {
    for (int i = 1; i < windows_.size(); ++i) {
      const int rank = (windows_.self() + i) % windows_.size();
      const std::size_t bytes = BytesOf(rank, k);
      if (bytes == 0) continue;
      if (Status status = windows_.AwaitCopied(rank, first_ + k); !status.ok()) return status;
      ByteStream& output = call_.outputs[static_cast<std::size_t>(rank)];
      const std::span<const std::byte> window{windows_.Window(rank, first_ + k), bytes};
      if (past_caches_) {
        ScatterPastCaches(output, longest_.Offset(k), window);
      } else {
        output.Scatter(longest_.Offset(k), window);
      }
    }
    return Status::Ok();
  }

  StepWindows& windows_;
  CollectiveCall& call_;
  const Chunks longest_;  // of the rank that contributes most
  const bool past_caches_;
  const std::uint64_t first_;
};

// A line of each rank is enough.
Status Inline(StepWindows& windows, CollectiveCall& call) {
  const auto self = static_cast<std::size_t>(windows.self());
  call.inputs[0].Gather(0, {windows.OwnLine(), call.bytes_per_rank[self]});
  if (Status status = windows.ExchangeLines("allgather"); !status.ok()) return status;
  for (int rank = 0; rank < windows.size(); ++rank) {
    ByteStream& output = call.outputs[static_cast<std::size_t>(rank)];
    output.Scatter(0, {windows.LineOf(rank), output.size()});
  }
  return Status::Ok();
}

}  // namespace

Status ShmAllgather(StepWindows& windows, DirectCopy& direct, CollectiveCall& call) {
  const std::uint64_t longest = *std::ranges::max_element(call.bytes_per_rank);
  if (longest > 0 && longest <= kLineBytes) return Inline(windows, call);
  if (direct.IsFor(longest)) {
    const Result<bool> done = direct.Run(windows, call, "allgather");
    if (!done) return done.error();
    if (*done) return Status::Ok();
  }
  return Allgather(windows, call).Run();
}

}  // namespace hora
