// Reductions whose slices meet at one rank each.
#include <array>

#include "hora/collectives/alone.h"
#include "hora/collectives/chunks.h"
#include "hora/collectives/paired_pieces.h"
#include "hora/collectives/steps.h"
#include "hora/collectives/tcp/algorithms.h"

namespace hora {
namespace {

// Operands of the others, for both slots together.
constexpr std::size_t kStagingBytes = 4u << 20;
constexpr std::size_t kMinPieceBytes = 4u << 10;

std::size_t PieceBytes(int size) {
  const std::size_t share = kStagingBytes / (2 * static_cast<std::size_t>(size));
  return std::clamp(share / 64 * 64, kMinPieceBytes, kTcpPieceBytes);
}

// Brings the operands of one step to the rank that reduces them, while those of the step before
// are reduced. Absent ranks reduce, too, but bring nothing.
class Meeting {
 public:
  Meeting(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call, std::size_t room)
      : exchange_(exchange),
        staging_(staging),
        call_(call),
        spec_(SpecOf(call)),
        brings_(!call.absent.Contains(exchange.rank())),
        room_(room),
        operands_(staging.Of(2 * room * static_cast<std::size_t>(exchange.size()))) {
    for (auto& ends : ends_) ends.resize(static_cast<std::size_t>(exchange.size()));
  }

  // send(peer) queues this rank's operand for `peer`; this rank gets `bytes` from everybody.
  template <class Send>
  void Place(std::uint64_t step, std::size_t bytes, Send send) {
    for (int distance = 1; distance < exchange_.size(); ++distance) {
      if (brings_) send(exchange_.After(distance));
      const int from = exchange_.After(-distance);
      if (call_.absent.Contains(from)) continue;
      exchange_.Receive(from, {Operand(step, from), bytes});
      ends_[step % 2][static_cast<std::size_t>(from)] = exchange_.QueuedFrom(from);
    }
  }

  // Into [offset, offset + bytes) of the output, which is that of `own`, too.
  Status Reduce(std::uint64_t step, ByteStream* own, std::uint64_t offset, std::size_t bytes) {
    for (int rank = 0; rank < exchange_.size(); ++rank) {
      if (rank == exchange_.rank() || call_.absent.Contains(rank)) continue;
      Status status =
          exchange_.AwaitReceived(rank, ends_[step % 2][static_cast<std::size_t>(rank)]);
      if (!status.ok()) return status;
    }
    std::size_t at = 0;
    const auto reduce = [&](const std::byte* from, std::byte* to, std::size_t count) {
      staging_.sources.clear();
      for (int rank = 0; rank < exchange_.size(); ++rank) {
        if (call_.absent.Contains(rank)) continue;
        staging_.sources.push_back(rank == exchange_.rank() ? from : Operand(step, rank) + at);
      }
      hora::Reduce(spec_, staging_.sources, {&to, 1}, count / SizeOf(spec_.dtype));
      at += count;
    };
    if (brings_) {
      ForEachPair(*own, call_.outputs[0], offset, bytes, reduce);
    } else {
      call_.outputs[0].ForEachPiece(offset, bytes, [&](std::span<std::byte> piece) {
        reduce(nullptr, piece.data(), piece.size());
      });
    }
    return Status::Ok();
  }

 private:
  std::byte* Operand(std::uint64_t step, int rank) const {
    const auto size = static_cast<std::size_t>(exchange_.size());
    return operands_.data() + ((step % 2) * size + static_cast<std::size_t>(rank)) * room_;
  }

  TcpExchange& exchange_;
  TcpStaging& staging_;
  CollectiveCall& call_;
  const ReduceSpec spec_;
  const bool brings_;
  const std::size_t room_;                          // of one operand
  const std::span<std::byte> operands_;             // by slot, then by rank
  std::array<std::vector<std::uint64_t>, 2> ends_;  // by slot and rank: of what is received
};

// To every peer a rank says, in this order: operands of step 0; of step k + 1, then the result of
// step k. A result is written over the operands of its slice only after they have arrived.
class SlicedAllreduce {
 public:
  SlicedAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call)
      : exchange_(exchange),
        call_(call),
        size_(static_cast<std::size_t>(exchange.size())),
        chunks_(Chunks::Of(call.bytes_per_rank[0], PieceBytes(exchange.size()) * size_)),
        meeting_(exchange, staging, call, chunks_.bytes / size_ + 64) {}

  Status Run() {
    Place(0);
    for (std::uint64_t k = 0; k < chunks_.count; ++k) {
      if (k + 1 < chunks_.count) Place(k + 1);
      for (int peer = 0; peer < exchange_.size(); ++peer) {
        if (peer == exchange_.rank()) continue;
        exchange_.Receive(peer, call_.outputs[0], Begin(k, peer), Bytes(k, peer));
      }
      const std::uint64_t begin = Begin(k, exchange_.rank());
      const std::size_t bytes = Bytes(k, exchange_.rank());
      ByteStream* const own = call_.inputs.empty() ? nullptr : &call_.inputs[0];
      if (Status status = meeting_.Reduce(k, own, begin, bytes); !status.ok()) return status;
      for (int distance = 1; distance < exchange_.size(); ++distance) {
        exchange_.Send(exchange_.After(distance), call_.outputs[0], begin, bytes);
      }
      if (Status status = exchange_.Pass(); !status.ok()) return status;
    }
    return exchange_.Finish();
  }

 private:
  // A rank's slice of a chunk: even, of whole cache lines.
  std::size_t Cut(std::uint64_t k, int rank) const {
    const std::size_t bytes = chunks_.BytesAt(k);
    const std::size_t lines = (bytes + 63) / 64;
    return std::min(lines * static_cast<std::size_t>(rank) / size_ * 64, bytes);
  }
  std::uint64_t Begin(std::uint64_t k, int rank) const { return chunks_.Offset(k) + Cut(k, rank); }
  std::size_t Bytes(std::uint64_t k, int rank) const {
    const std::size_t end = rank + 1 == exchange_.size() ? chunks_.BytesAt(k) : Cut(k, rank + 1);
    return end - Cut(k, rank);
  }

  void Place(std::uint64_t k) {
    meeting_.Place(k, Bytes(k, exchange_.rank()), [&](int peer) {
      exchange_.Send(peer, call_.inputs[0], Begin(k, peer), Bytes(k, peer));
    });
  }

  TcpExchange& exchange_;
  CollectiveCall& call_;
  const std::size_t size_;
  const Chunks chunks_;  // of all slices
  Meeting meeting_;
};

}  // namespace

Status TcpSlicedAllreduce(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call) {
  return SlicedAllreduce(exchange, staging, call).Run();
}

Status TcpReducescatter(TcpExchange& exchange, TcpStaging& staging, CollectiveCall& call) {
  const std::uint64_t longest = *std::ranges::max_element(call.bytes_per_rank);
  const std::uint64_t steps = CeilDivide(longest, PieceBytes(exchange.size()));
  std::vector<Share> shares;
  for (const std::uint64_t bytes : call.bytes_per_rank) shares.emplace_back(bytes, steps);
  const auto share_of = [&](int rank) { return shares[static_cast<std::size_t>(rank)]; };
  const Share own = share_of(exchange.rank());
  Meeting meeting(exchange, staging, call, Share(longest, steps).BytesAt(0));
  const auto place = [&](std::uint64_t k) {
    meeting.Place(k, own.BytesAt(k), [&](int peer) {
      const Share share = share_of(peer);
      exchange.Send(peer, call.inputs[static_cast<std::size_t>(peer)], share.OffsetAt(k),
                    share.BytesAt(k));
    });
  };
  if (steps > 0) place(0);
  for (std::uint64_t k = 0; k < steps; ++k) {
    if (k + 1 < steps) place(k + 1);
    ByteStream& input = call.inputs[static_cast<std::size_t>(exchange.rank())];
    Status status = meeting.Reduce(k, &input, own.OffsetAt(k), own.BytesAt(k));
    if (status.ok()) status = exchange.Pass();
    if (!status.ok()) return status;
  }
  return exchange.Finish();
}

}  // namespace hora
