#include <algorithm>

#include "hora/collectives/alone.h"
#include "hora/collectives/chunks.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/shm/algorithms.h"

namespace hora {
namespace {

// A part of a window at least, in the mean: smaller ones would mostly be padding.
constexpr std::size_t kMinPartBytes = 128;

std::uint64_t CeilDivide(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

// In each step a window is cut into a part per destination, as long as that destination's share of
// the whole: all destinations get their last bytes in the last step, and no window space waits for
// one that has everything. Rank d reduces part d over all ranks, in the order of the ranks,
// straight into its output. Its own operand never enters a window.
//
// Parts begin at cache lines. Should the windows be too small for a part of every rank, the
// destinations take turns, some at a time.
class Reducescatter {
 public:
  Reducescatter(StepWindows& windows, ReduceState& state, CollectiveCall& call)
      : windows_(windows),
        sources_(state.sources),
        call_(call),
        output_(call.outputs[0]),
        spec_(SpecOf(call)),
        element_bytes_(SizeOf(call.params.dtype)) {}

  Status Run() {
    if (windows_.size() == 1) {
      ReduceAlone(call_.inputs[0], output_, spec_);
      return Status::Ok();
    }
    const auto at_once =
        static_cast<int>(std::max<std::size_t>(windows_.window_bytes() / kMinPartBytes, 1));
    Status status;
    for (int first = 0; status.ok() && first < windows_.size(); first += at_once) {
      status = RunTurn(first, std::min(first + at_once, windows_.size()));
    }
    return status;
  }

 private:
  // Every rank places its operands at every step, whether or not it is a destination, and step k +
  // 1 after reducing step k - 1, which is all that it does with the others' windows. So `copied`
  // releases, as in an allgather.
  Status RunTurn(int first_rank, int last_rank) {
    Cut(first_rank, last_rank);
    first_ = windows_.Begin("reducescatter", steps_);
    Status status;
    if (steps_ > 0) status = Place(0);
    for (std::uint64_t k = 0; status.ok() && k < steps_; ++k) {
      if (k + 1 < steps_) status = Place(k + 1);
      if (status.ok()) status = ReduceOwn(k);
    }
    return status;
  }

  // One destination's bytes, and where its part of a window begins.
  struct Part {
    int rank = 0;
    std::size_t begin = 0;
    Chunks chunks;
  };

  // Chooses the number of steps and the parts of destinations [first_rank, last_rank). The first
  // guess would be right if parts needed no alignment; the second leaves room for it.
  void Cut(int first_rank, int last_rank) {
    std::uint64_t total = 0;
    std::uint64_t destinations = 0;
    for (int rank = first_rank; rank < last_rank; ++rank) {
      const std::uint64_t bytes = BytesFor(rank);
      total += bytes;
      destinations += bytes > 0 ? 1 : 0;
    }
    steps_ = 0;
    parts_.clear();
    if (total == 0) return;
    const std::uint64_t room = std::min<std::uint64_t>(
        std::max<std::uint64_t>(windows_.chunk_bytes(), destinations * kMinPartBytes),
        windows_.window_bytes());
    if (CutInto(CeilDivide(total, room), first_rank, last_rank) <= room) return;
    CutInto(CeilDivide(total, room - destinations * 64), first_rank, last_rank);
  }

  // Returns the bytes of a window that the parts take.
  std::size_t CutInto(std::uint64_t steps, int first_rank, int last_rank) {
    parts_.clear();
    steps_ = 0;
    std::size_t begin = 0;
    for (int rank = first_rank; rank < last_rank; ++rank) {
      const std::uint64_t bytes = BytesFor(rank);
      if (bytes == 0) continue;
      const std::uint64_t share = CeilDivide(CeilDivide(bytes, steps), 64) * 64;
      const Chunks chunks{CeilDivide(bytes, share), static_cast<std::size_t>(share), bytes};
      parts_.push_back({rank, begin, chunks});
      begin += chunks.bytes;
      steps_ = std::max(steps_, chunks.count);
    }
    return begin;
  }

  Status Place(std::uint64_t k) {
    if (Status status = windows_.Acquire(first_ + k); !status.ok()) return status;
    std::byte* const window = windows_.Window(windows_.self(), first_ + k);
    for (const Part& part : parts_) {
      const std::size_t bytes = part.chunks.BytesAt(k);
      if (part.rank == windows_.self() || bytes == 0) continue;
      call_.inputs[static_cast<std::size_t>(part.rank)].Gather(part.chunks.Offset(k),
                                                               {window + part.begin, bytes});
    }
    windows_.PublishCopied(first_ + k);
    return Status::Ok();
  }

  Status ReduceOwn(std::uint64_t k) {
    const auto part = std::ranges::find(parts_, windows_.self(), &Part::rank);
    if (part == parts_.end() || part->chunks.BytesAt(k) == 0) return Status::Ok();
    if (Status status = windows_.AwaitCopied(first_ + k); !status.ok()) return status;
    const auto self = static_cast<std::size_t>(windows_.self());
    std::size_t at = part->begin;
    const auto reduce = [&](std::byte* from, std::byte* to, std::size_t bytes) {
      for (int rank = 0; rank < windows_.size(); ++rank) {
        sources_[static_cast<std::size_t>(rank)] = windows_.Window(rank, first_ + k) + at;
      }
      sources_[self] = from;
      Reduce(spec_, sources_, {&to, 1}, bytes / element_bytes_);
      at += bytes;
    };
    ForEachPair(call_.inputs[self], output_, part->chunks.Offset(k), part->chunks.BytesAt(k),
                reduce);
    return Status::Ok();
  }

  std::uint64_t BytesFor(int rank) const {
    return call_.bytes_per_rank[static_cast<std::size_t>(rank)];
  }

  StepWindows& windows_;
  std::vector<const std::byte*>& sources_;
  CollectiveCall& call_;
  ByteStream& output_;
  const ReduceSpec spec_;
  const std::size_t element_bytes_;
  std::vector<Part> parts_;  // of the destinations whose turn it is and that get anything
  std::uint64_t steps_ = 0;
  std::uint64_t first_ = 0;
};

}  // namespace

Status ShmReducescatter(StepWindows& windows, ReduceState& state, CollectiveCall& call) {
  return Reducescatter(windows, state, call).Run();
}

}  // namespace hora
