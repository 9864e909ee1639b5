#include <array>

#include "hora/collectives/alone.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/steps.h"
#include "hora/collectives/tcp/algorithms.h"

namespace hora {
namespace {

// Slice s starts at rank s as its operand; each next rank adds its own, so that it is complete at
// rank s - 1, and goes around once more as the result. Slices are cut into pieces, and a piece goes
// on as soon as it is added to: all links are busy all the time.
class RingAllreduce {
 public:
  RingAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call)
      : exchange_(exchange),
        call_(call),
        last_(SpecOf(call)),
        between_({.dtype = last_.dtype,
                  .op = last_.op == ReduceOp::kAverage ? ReduceOp::kSum : last_.op}),
        slice_bytes_(CeilDivide(CeilDivide(call.bytes_per_rank[0], exchange.size()), 64) * 64),
        pieces_(CeilDivide(slice_bytes_, kTcpPieceBytes)),
        sums_(staging.Of(kSlots * kTcpPieceBytes)) {}

  Status Run() {
    const std::uint64_t steps = static_cast<std::uint64_t>(exchange_.size()) - 1;
    const std::uint64_t turns = steps * pieces_;
    exchange_.Send(next_, call_.inputs[0], SliceBegin(0), SliceBytes(0));
    for (std::uint64_t turn = 0; turn < std::min(turns, kAhead); ++turn) ReceiveSum(turn);
    for (std::uint64_t turn = 0; turn < turns; ++turn) {
      if (Status status = Add(turn, turn + pieces_ >= turns); !status.ok()) return status;
      if (turn + kAhead < turns) {
        Status status = exchange_.AwaitSent(next_, sent_[(turn + kAhead) % kSlots]);
        if (status.ok()) status = exchange_.Pass();
        if (!status.ok()) return status;
        ReceiveSum(turn + kAhead);
      }
    }
    return HandOut(turns);
  }

 private:
  static constexpr std::uint64_t kAhead = 4;  // pieces that may come in
  static constexpr std::uint64_t kSlots = 8;  // others are on their way out

  // The slice that this rank sends after `step` steps; before that it has come in.
  std::uint64_t SliceAt(std::uint64_t step) const {
    const auto size = static_cast<std::uint64_t>(exchange_.size());
    return (static_cast<std::uint64_t>(exchange_.rank()) + 2 * size - step) % size;
  }
  std::uint64_t SliceBegin(std::uint64_t step) const {
    return std::min(SliceAt(step) * slice_bytes_, call_.bytes_per_rank[0]);
  }
  std::uint64_t SliceBytes(std::uint64_t step) const {
    return std::min(SliceBegin(step) + slice_bytes_, call_.bytes_per_rank[0]) - SliceBegin(step);
  }

  struct Piece {
    std::uint64_t offset = 0;
    std::size_t bytes = 0;
  };
  // What comes in at a turn: the pieces of a slice, then those of the slice before it.
  Piece PieceAt(std::uint64_t turn) const {
    const std::uint64_t step = turn / pieces_ + 1;
    const Share share(SliceBytes(step), pieces_);
    return {SliceBegin(step) + share.OffsetAt(turn % pieces_), share.BytesAt(turn % pieces_)};
  }
  std::span<std::byte> SumAt(std::uint64_t turn) const {
    return sums_.subspan(turn % kSlots * kTcpPieceBytes, PieceAt(turn).bytes);
  }

  void ReceiveSum(std::uint64_t turn) {
    exchange_.Receive(previous_, SumAt(turn));
    received_[turn % kSlots] = exchange_.QueuedFrom(previous_);
  }

  Status Add(std::uint64_t turn, bool complete) {
    Status status = exchange_.AwaitReceived(previous_, received_[turn % kSlots]);
    if (!status.ok()) return status;
    const Piece piece = PieceAt(turn);
    const std::span<std::byte> sum = SumAt(turn);
    ByteStream& own = call_.inputs[0];
    ByteStream& output = call_.outputs[0];
    if (complete) {
      const std::byte* from = sum.data();
      ForEachPair(own, output, piece.offset, piece.bytes,
                  [&](const std::byte* mine, std::byte* to, std::size_t bytes) {
                    AddTo(last_, from, mine, to, bytes);
                    from += bytes;
                  });
      exchange_.Send(next_, output, piece.offset, piece.bytes);
    } else {
      std::byte* at = sum.data();
      own.ForEachPiece(piece.offset, piece.bytes, [&](std::span<const std::byte> mine) {
        AddTo(between_, at, mine.data(), at, mine.size());
        at += mine.size();
      });
      exchange_.Send(next_, sum);
    }
    sent_[turn % kSlots] = exchange_.QueuedTo(next_);
    return status;
  }

  static void AddTo(const ReduceSpec& spec, const std::byte* sum, const std::byte* own,
                    std::byte* to, std::size_t bytes) {
    const std::byte* const sources[] = {sum, own};
    Reduce(spec, sources, {&to, 1}, bytes / SizeOf(spec.dtype));
  }

  // Results overwrite operands only where they have been added.
  Status HandOut(std::uint64_t turns) {
    std::uint64_t end = exchange_.QueuedFrom(previous_);
    for (std::uint64_t step = 0; step < turns / pieces_; ++step) {
      exchange_.Receive(previous_, call_.outputs[0], SliceBegin(step), SliceBytes(step));
    }
    for (std::uint64_t step = 0; step + 1 < turns / pieces_; ++step) {
      const Share share(SliceBytes(step), pieces_);
      for (std::uint64_t i = 0; i < pieces_; ++i) {
        end += share.BytesAt(i);
        Status status = exchange_.AwaitReceived(previous_, end);
        if (status.ok()) status = exchange_.Pass();
        if (!status.ok()) return status;
        exchange_.Send(next_, call_.outputs[0], SliceBegin(step) + share.OffsetAt(i),
                       share.BytesAt(i));
      }
    }
    return exchange_.Finish();
  }

  TcpExchange& exchange_;
  CollectiveCall& call_;
  const ReduceSpec last_;     // of the last sum
  const ReduceSpec between_;  // of the others
  const std::uint64_t slice_bytes_;
  const std::uint64_t pieces_;  // of a slice
  const std::span<std::byte> sums_;
  const int next_ = exchange_.After(1);
  const int previous_ = exchange_.After(-1);
  std::array<std::uint64_t, kSlots> received_{};  // ends of what comes into the slots …
  std::array<std::uint64_t, kSlots> sent_{};      // … and leaves them
};

}  // namespace

Status TcpRingAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call) {
  return RingAllreduce(exchange, staging, call).Run();
}

}  // namespace hora
