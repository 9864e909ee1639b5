#include "hora/collectives/shm/in_place.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "hora/collectives/alone.h"
#include "hora/kernels/reduce.h"

namespace hora {
namespace {

// Work between two looks at what else there is to do.
constexpr std::size_t kPieceBytes = 256u << 10;

// One step: to have placed it is to let the others at one's memory, to have reduced it is to be
// done with theirs.
class InPlace {
 public:
  InPlace(StepWindows& windows, ReduceState& state, const ReduceSpec& spec, InPlacePlan& plan)
      : windows_(windows), state_(state), spec_(spec), plan_(plan) {}

  Status Run() {
    step_ = windows_.Begin("allreduce", 1);
    if (Status status = Meet(); !status.ok() || !plan_.done) return status;
    if (Status status = ReduceShare(); !status.ok()) return status;
    windows_.PublishReduced(step_);
    return windows_.AwaitReduced(step_);
  }

 private:
  // The digest travels in the window.
  Status Meet() {
    if (Status status = windows_.Acquire(step_); !status.ok()) return status;
    std::memcpy(windows_.Window(windows_.self(), step_), &plan_.digest, sizeof(plan_.digest));
    windows_.PublishCopied(step_);
    if (Status status = windows_.AwaitCopied(step_); !status.ok()) return status;
    plan_.done = plan_.digest != 0;
    for (int rank = 0; rank < windows_.size(); ++rank) {
      plan_.done = plan_.done && DigestOf(rank) == plan_.digest;
    }
    return Status::Ok();
  }

  std::uint64_t DigestOf(int rank) const {
    std::uint64_t digest = 0;
    std::memcpy(&digest, windows_.Window(rank, step_), sizeof(digest));
    return digest;
  }

  Status ReduceShare() {
    const std::uint64_t begin = CutBefore(windows_.self());
    const std::uint64_t end = CutBefore(windows_.self() + 1);
    std::uint64_t at = 0;  // where the range begins in the list
    std::size_t since_look = 0;
    for (const SymmetricRange& range : plan_.ranges) {
      const std::uint64_t last = std::min(end, at + range.bytes);
      for (std::uint64_t from = std::max(begin, at); from < last;) {
        if (since_look >= kPieceBytes) {
          // Whoever is wanted elsewhere gives way here; that everybody has this step releases it.
          if (Status status = windows_.Acquire(step_); !status.ok()) return status;
          since_look = 0;
        }
        const auto bytes =
            static_cast<std::size_t>(std::min<std::uint64_t>(last - from, kPieceBytes));
        ReducePiece(range, static_cast<std::size_t>(from - at), bytes);
        from += bytes;
        since_look += bytes;
      }
      at += range.bytes;
    }
    return Status::Ok();
  }

  void ReducePiece(const SymmetricRange& range, std::size_t offset, std::size_t bytes) {
    for (int rank = 0; rank < windows_.size(); ++rank) {
      std::byte* const piece = range.of(rank) + offset;
      state_.sources[static_cast<std::size_t>(rank)] = piece;
      state_.destinations[static_cast<std::size_t>(rank)] = piece;
    }
    Reduce(spec_, state_.sources, state_.destinations, bytes / SizeOf(spec_.dtype));
  }

  // Where the share of `rank` begins in the list: even, and at cache lines of the memory, so that
  // no line has two writers. Slices begin at pages, so all ranks find the same places.
  std::uint64_t CutBefore(int rank) const {
    const auto size = static_cast<std::uint64_t>(windows_.size());
    if (rank == windows_.size()) return plan_.bytes;
    const std::uint64_t even = plan_.bytes / size * static_cast<std::uint64_t>(rank);
    std::uint64_t at = 0;
    for (const SymmetricRange& range : plan_.ranges) {
      if (even < at + range.bytes) {
        const auto line = reinterpret_cast<std::uintptr_t>(range.first + (even - at)) % 64;
        return even - std::min<std::uint64_t>(line, even - at);
      }
      at += range.bytes;
    }
    return plan_.bytes;
  }

  StepWindows& windows_;
  ReduceState& state_;
  const ReduceSpec spec_;
  InPlacePlan& plan_;
  std::uint64_t step_ = 0;
};

}  // namespace

Status ShmAllreduceInPlace(StepWindows& windows, ReduceState& state, CollectiveCall& call) {
  InPlacePlan& plan = *call.in_place;
  Status status = InPlace(windows, state, SpecOf(call), plan).Run();
  if (!status.ok()) return status;
  if (plan.done) {
    if (plan.other_inputs.empty()) return Status::Ok();
    call.bytes_per_rank[0] = plan.other_inputs.size();
    call.inputs[0] = std::move(plan.other_inputs);
    call.outputs[0] = std::move(plan.other_outputs);
  }
  return ShmAllreduce(windows, state, call);
}

}  // namespace hora
