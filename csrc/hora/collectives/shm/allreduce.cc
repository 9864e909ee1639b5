#include <span>
#include <vector>

#include "hora/collectives/alone.h"
#include "hora/collectives/chunks.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/shm/algorithms.h"
#include "hora/collectives/shm/streaming.h"
#include "hora/kernels/reduce.h"

namespace hora {
namespace {

// A contiguous part of a chunk.
struct Range {
  std::size_t begin = 0;
  std::size_t bytes = 0;

  std::size_t end() const { return begin + bytes; }
};

// Rank r's part of a chunk: even, and cut at cache lines so that no line has two writers.
Range SliceOf(int rank, int size, std::size_t chunk_bytes) {
  const auto cut = [&](int r) -> std::size_t {
    if (r == size) return chunk_bytes;
    const std::size_t lines = (chunk_bytes + 63) / 64;
    return lines * static_cast<std::size_t>(r) / static_cast<std::size_t>(size) * 64;
  };
  return {cut(rank), cut(rank + 1) - cut(rank)};
}

// Absent ranks take every step and reduce their slice, but place nothing, and no rank counts their
// window among the operands.
class Allreduce {
 public:
  Allreduce(StepWindows& windows, ReduceState& state, CollectiveCall& call)
      : windows_(windows),
        state_(state),
        call_(call),
        some_absent_(!call.absent.empty()),
        input_(some_absent_ && call.absent.Contains(windows.self()) ? nullptr : &call.inputs[0]),
        output_(call.outputs[0]),
        spec_(SpecOf(call)),
        element_bytes_(SizeOf(call.params.dtype)),
        total_(call.bytes_per_rank[0]),
        large_(total_ >= kFetchEarlyBytes) {}

  Status Run() {
    if (windows_.size() == 1) {
      ReduceAlone(*input_, output_, spec_);
      return Status::Ok();
    }
    if (total_ <= kLineBytes && !some_absent_) return Inline();
    if (total_ <= state_.small_bytes && total_ <= windows_.window_bytes()) return Small();
    return Migratory();
  }

 private:
  // Chunks between the one that is collected and the one that is placed next.
  static constexpr std::uint64_t kPlacedAhead = 3;

  // Everybody reads everybody's line.
  Status Inline() {
    if (total_ == 0) return Status::Ok();
    input_->Gather(0, {windows_.OwnLine(), total_});
    if (Status status = windows_.ExchangeLines("allreduce"); !status.ok()) return status;
    for (int rank = 0; rank < windows_.size(); ++rank) {
      state_.sources[static_cast<std::size_t>(rank)] = windows_.LineOf(rank);
    }
    output_.ForEachPiece(0, total_, [&](std::span<std::byte> piece) {
      std::byte* const to = piece.data();
      Reduce(spec_, state_.sources, {&to, 1}, piece.size() / element_bytes_);
      for (const std::byte*& source : state_.sources) source += piece.size();
    });
    return Status::Ok();
  }

  // One step: everybody reads everybody's window and reduces all of it. Nobody starts the next call
  // before it is done with this one, so `copied` alone releases the window.
  Status Small() {
    if (total_ == 0) return Status::Ok();
    const std::uint64_t step = windows_.Begin("allreduce", 1);
    if (Status status = windows_.Acquire(step); !status.ok()) return status;
    if (input_ != nullptr) input_->Gather(0, {windows_.Window(windows_.self(), step), total_});
    windows_.PublishCopied(step);
    windows_.OwnLines(step + 1, total_);  // the next call is likely to be like this one
    if (Status status = windows_.AwaitCopied(step); !status.ok()) return status;
    std::size_t offset = 0;
    output_.ForEachPiece(0, total_, [&](std::span<std::byte> piece) {
      std::byte* const to = piece.data();
      Reduce(spec_, Operands(step, offset, nullptr), {&to, 1}, piece.size() / element_bytes_);
      offset += piece.size();
    });
    return Status::Ok();
  }

  // Rank r reduces slice r of every chunk over all ranks and writes the sum back where the operands
  // were, so each cache line of a window travels between two cores only. Its own operand and result
  // never enter a window: they are read from the input and written to the output.
  //
  // Chunk k + 1 is placed before chunk k is reduced and chunk k - 1 is copied out after it, so that
  // a rank that is late by less than the work on a chunk keeps nobody waiting. Placing step k + 1
  // comes after reducing step k - 1, which is all that this rank does with the others' windows.
  Status Migratory() {
    if (total_ == 0) return Status::Ok();
    chunks_ = Chunks::Of(total_, windows_.chunk_bytes());
    first_ = windows_.Begin("allreduce", chunks_.count);
    Status status = Place(0);
    for (std::uint64_t k = 0; status.ok() && k < chunks_.count; ++k) {
      if (k + 1 < chunks_.count) status = Place(k + 1);
      if (status.ok()) status = ReduceSlice(k);
      if (status.ok() && k > 0) status = Collect(k - 1);
    }
    if (status.ok()) status = Collect(chunks_.count - 1);
    return status;
  }

  Status Place(std::uint64_t k) {
    if (Status status = windows_.Acquire(first_ + k); !status.ok()) return status;
    if (input_ != nullptr) {
      ForOthersSlices(k, [&](std::size_t offset, std::span<std::byte> in_window) {
        input_->Gather(offset, in_window);
      });
    }
    windows_.PublishCopied(first_ + k);
    return Status::Ok();
  }

  Status ReduceSlice(std::uint64_t k) {
    if (Status status = windows_.AwaitCopied(first_ + k); !status.ok()) return status;
    const Range slice = SliceOf(windows_.self(), windows_.size(), chunks_.BytesAt(k));
    std::size_t at = slice.begin;
    const auto reduce = [&](const std::byte* from, std::byte* to, std::size_t bytes) {
      Reduce(spec_, Operands(first_ + k, at, from), Results(first_ + k, at, to),
             bytes / element_bytes_);
      at += bytes;
    };
    const std::size_t offset = chunks_.Offset(k) + slice.begin;
    if (input_ != nullptr) {
      ForEachPair(*input_, output_, offset, slice.bytes, reduce);
    } else {
      output_.ForEachPiece(offset, slice.bytes, [&](std::span<std::byte> piece) {
        reduce(nullptr, piece.data(), piece.size());
      });
    }
    windows_.PublishReduced(first_ + k);
    return Status::Ok();
  }

  Status Collect(std::uint64_t k) {
    if (Status status = windows_.AwaitReduced(first_ + k); !status.ok()) return status;
    ForOthersSlices(k, [&](std::size_t offset, std::span<std::byte> in_window) {
      if (large_ && !InPlaceAt(offset)) return output_.Scatter(offset, in_window);
      Ahead next = Early(offset + kPlacedAhead * chunks_.bytes, in_window.size());
      ScatterFetching(output_, offset, in_window, next);
    });
    return Status::Ok();
  }

  // Otherwise nobody has read the output, and memcpy fills whole lines of it without reading them.
  bool InPlaceAt(std::size_t offset) {
    return input_ != nullptr &&
           input_->FirstPiece(offset, 1).data() == output_.FirstPiece(offset, 1).data();
  }

  // The beginning of [offset, offset + bytes) of the input, as far as it lies in one piece.
  Ahead Early(std::size_t offset, std::size_t bytes) {
    if (!large_ || offset >= total_) return {};
    return Ahead(input_->FirstPiece(offset, bytes));
  }

  // The parts of this rank's window before and after its own slice, with their stream offsets.
  template <class Visit>
  void ForOthersSlices(std::uint64_t k, Visit&& visit) {
    std::byte* const window = windows_.Window(windows_.self(), first_ + k);
    const std::size_t bytes = chunks_.BytesAt(k);
    const Range own = SliceOf(windows_.self(), windows_.size(), bytes);
    for (const Range part : {Range{0, own.begin}, Range{own.end(), bytes - own.end()}}) {
      if (part.bytes == 0) continue;
      visit(chunks_.Offset(k) + part.begin, std::span(window + part.begin, part.bytes));
    }
  }

  // In the windows at `offset`, of the ranks that bring any; this rank's own at `own`, unless null.
  std::span<const std::byte* const> Operands(std::uint64_t step, std::size_t offset,
                                             const std::byte* own) {
    std::size_t count = 0;
    for (int rank = 0; rank < windows_.size(); ++rank) {
      if (some_absent_ && call_.absent.Contains(rank)) continue;
      const bool from_own = own != nullptr && rank == windows_.self();
      state_.sources[count++] = from_own ? own : windows_.Window(rank, step) + offset;
    }
    return std::span(state_.sources).first(count);
  }

  // In the windows at `offset`, this rank's own at `own`.
  std::span<std::byte* const> Results(std::uint64_t step, std::size_t offset, std::byte* own) {
    for (int rank = 0; rank < windows_.size(); ++rank) {
      std::byte* const to = rank == windows_.self() ? own : windows_.Window(rank, step) + offset;
      state_.destinations[static_cast<std::size_t>(rank)] = to;
    }
    return state_.destinations;
  }

  StepWindows& windows_;
  ReduceState& state_;
  const CollectiveCall& call_;
  const bool some_absent_;
  ByteStream* const input_;  // null: this rank is absent
  ByteStream& output_;
  const ReduceSpec spec_;
  const std::size_t element_bytes_;
  const std::uint64_t total_;
  const bool large_;
  Chunks chunks_;
  std::uint64_t first_ = 0;
};

}  // namespace

Status ShmAllreduce(StepWindows& windows, ReduceState& state, CollectiveCall& call) {
  return Allreduce(windows, state, call).Run();
}

}  // namespace hora
