#include "hora/collectives/alone.h"
#include "hora/collectives/chunks.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/tcp/algorithms.h"

namespace hora {
namespace {

// In a ring an operand is rounded with every sum that it goes through, and integers wrap around on
// the way. Only where neither shows may the sums of some ranks travel.
bool MayGoAround(const ReduceSpec& spec) {
  if (spec.prescale != 1.0) return false;
  switch (spec.dtype) {
    case DType::kFloat32:
    case DType::kFloat64:
    case DType::kComplex64:
    case DType::kComplex128:
    case DType::kBool:
      return true;
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kUInt16:
    case DType::kInt16:
    case DType::kUInt32:
    case DType::kInt32:
    case DType::kUInt64:
    case DType::kInt64:
      return spec.op != ReduceOp::kAverage && spec.postscale == 1.0;
    default:
      return false;
  }
}

// Of ranks that are few, or have little: everybody reduces everything.
class Gathered {
 public:
  Gathered(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call)
      : exchange_(exchange),
        staging_(staging),
        call_(call),
        spec_(SpecOf(call)),
        brings_(!call.absent.Contains(exchange.rank())),
        pieces_(Chunks::Of(call.bytes_per_rank[0], kTcpPieceBytes)),
        operands_(staging.Of(kSlots * pieces_.bytes * static_cast<std::size_t>(exchange.size()))) {}

  Status Run() {
    for (std::uint64_t k = 0; k + 1 < kSlots && k < pieces_.count; ++k) Place(k);
    for (std::uint64_t k = 0; k < pieces_.count; ++k) {
      if (k + kSlots - 1 < pieces_.count) Place(k + kSlots - 1);
      if (Status status = Collect(k); !status.ok()) return status;
    }
    return exchange_.Finish();
  }

  // With ranks that are many, as few messages as can be: whoever has 2^i operands, beginning with
  // its own, sends them to the rank 2^i before it.
  Status RunDoubling() {
    const std::size_t bytes = pieces_.bytes;
    if (pieces_.total == 0) return Status::Ok();
    if (brings_) call_.inputs[0].Gather(0, operands_.first(pieces_.total));
    const auto size = static_cast<std::size_t>(exchange_.size());
    for (std::size_t have = 1; have < size; have *= 2) {
      const std::size_t count = std::min(have, size - have) * bytes;
      const int distance = static_cast<int>(have);
      exchange_.Send(exchange_.After(-distance), operands_.first(count));
      exchange_.Receive(exchange_.After(distance), operands_.subspan(have * bytes, count));
      if (Status status = exchange_.Finish(); !status.ok()) return status;
    }
    Reduce(0, [&](int rank) {
      return static_cast<std::size_t>((rank - exchange_.rank() + exchange_.size()) %
                                      exchange_.size());
    });
    return Status::Ok();
  }

 private:
  // Pieces that are under way at the same time.
  static constexpr std::size_t kSlots = 3;

  void Place(std::uint64_t k) {
    const std::size_t bytes = pieces_.BytesAt(k);
    for (int distance = 1; distance < exchange_.size(); ++distance) {
      if (brings_)
        exchange_.Send(exchange_.After(distance), call_.inputs[0], pieces_.Offset(k), bytes);
      const int from = exchange_.After(-distance);
      if (call_.absent.Contains(from)) continue;
      exchange_.Receive(from, operands_.subspan(PlaceOf(k, from) * pieces_.bytes, bytes));
    }
  }

  std::size_t PlaceOf(std::uint64_t k, int rank) const {
    return (k % kSlots) * static_cast<std::size_t>(exchange_.size()) +
           static_cast<std::size_t>(rank);
  }

  Status Collect(std::uint64_t k) {
    const std::uint64_t end = pieces_.Offset(k) + pieces_.BytesAt(k);
    Status status;
    for (int rank = 0; status.ok() && rank < exchange_.size(); ++rank) {
      if (rank == exchange_.rank()) continue;
      if (!call_.absent.Contains(rank)) status = exchange_.AwaitReceived(rank, end);
      // The result may be written over what is on its way.
      if (status.ok() && brings_) status = exchange_.AwaitSent(rank, end);
    }
    if (!status.ok()) return status;
    Reduce(k, [&](int rank) { return PlaceOf(k, rank); });
    return Status::Ok();
  }

  // `place_of(rank)`: where its operand is, in pieces.
  template <class PlaceOfRank>
  void Reduce(std::uint64_t k, PlaceOfRank place_of) {
    std::size_t at = 0;
    const auto reduce = [&](const std::byte* own, std::byte* to, std::size_t bytes) {
      staging_.sources.clear();
      for (int rank = 0; rank < exchange_.size(); ++rank) {
        if (call_.absent.Contains(rank)) continue;
        const bool is_own = rank == exchange_.rank();
        staging_.sources.push_back(is_own ? own
                                          : operands_.data() + place_of(rank) * pieces_.bytes + at);
      }
      hora::Reduce(spec_, staging_.sources, {&to, 1}, bytes / SizeOf(spec_.dtype));
      at += bytes;
    };
    ByteStream& output = call_.outputs[0];
    if (brings_) {
      ForEachPair(call_.inputs[0], output, pieces_.Offset(k), pieces_.BytesAt(k), reduce);
    } else {
      output.ForEachPiece(pieces_.Offset(k), pieces_.BytesAt(k), [&](std::span<std::byte> piece) {
        reduce(nullptr, piece.data(), piece.size());
      });
    }
  }

  TcpExchange& exchange_;
  TcpStaging& staging_;
  CollectiveCall& call_;
  const ReduceSpec spec_;
  const bool brings_;
  const Chunks pieces_;
  const std::span<std::byte> operands_;  // by slot, then by rank
};

// More messages than this, one after the other, take longer than a few round trips.
constexpr int kManyRanks = 8;

}  // namespace

Status TcpGatheredAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call) {
  Gathered gathered(exchange, staging, call);
  return exchange.size() > kManyRanks ? gathered.RunDoubling() : gathered.Run();
}

Status TcpAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call) {
  const auto size = static_cast<std::uint64_t>(exchange.size());
  const std::uint64_t total = call.bytes_per_rank[0];
  // To two ranks each operand crosses once in any case.
  if (size == 2 || total * size <= kTcpAtOnceBytes) {
    return TcpGatheredAllreduce(exchange, staging, call);
  }
  if (exchange.size() >= kTcpRingRanks && total >= size * kTcpRingSliceBytes &&
      call.absent.empty() && MayGoAround(SpecOf(call))) {
    return TcpRingAllreduce(exchange, staging, call);
  }
  return TcpSlicedAllreduce(exchange, staging, call);
}

}  // namespace hora
