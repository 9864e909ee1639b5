#include "hora/collectives/staged/staged_backend.h"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "hora/base/check.h"
#include "hora/base/format.h"
#include "hora/collectives/adasum.h"
#include "hora/collectives/check_call.h"
#include "hora/collectives/staged/transfers.h"
#include "hora/collectives/steps.h"

namespace hora {
namespace {

// Of streams and pieces in pinned memory: a cache line, so that every dtype is aligned.
constexpr std::uint64_t kAlignment = 64;
// One comes down, one is worked on, one goes up.
constexpr std::size_t kAreas = 3;

std::uint64_t Aligned(std::uint64_t bytes) { return CeilDivide(bytes, kAlignment) * kAlignment; }

bool IsAdasum(const OpParams& params) {
  return params.kind == OpKind::kAllreduce && params.reduce_op == ReduceOp::kAdasum;
}

// The parts of [offset, offset + count), which lie one after the other in tensors that were
// allocated so.
std::vector<std::span<std::byte>> Parts(ByteStream& stream, std::size_t offset, std::size_t count) {
  std::vector<std::span<std::byte>> parts;
  stream.ForEachPiece(offset, count, [&](std::span<std::byte> piece) {
    const bool continues =
        !parts.empty() && parts.back().data() + parts.back().size() == piece.data();
    if (continues) {
      parts.back() = {parts.back().data(), parts.back().size() + piece.size()};
    } else {
      parts.push_back(piece);
    }
  });
  return parts;
}

using Copies = std::vector<PieceCopy>;

void AddDown(ByteStream& stream, std::size_t offset, std::span<std::byte> to, Copies& copies) {
  std::byte* next = to.data();
  for (const std::span<std::byte> part : Parts(stream, offset, to.size())) {
    copies.push_back({part.data(), next, part.size()});
    next += part.size();
  }
}

void AddUp(std::span<const std::byte> from, ByteStream& stream, std::size_t offset,
           Copies& copies) {
  const std::byte* next = from.data();
  for (const std::span<std::byte> part : Parts(stream, offset, from.size())) {
    copies.push_back({next, part.data(), part.size()});
    next += part.size();
  }
}

bool IsSameMemory(ByteStream& a, ByteStream& b) {
  const auto of_a = Parts(a, 0, a.size()), of_b = Parts(b, 0, b.size());
  return std::ranges::equal(of_a, of_b, [](auto left, auto right) {
    return left.data() == right.data() && left.size() == right.size();
  });
}

// Everything of it but the memory and the bytes.
CollectiveCall OnHost(const CollectiveCall& call) {
  CollectiveCall host;
  host.params = call.params;
  host.params.device = Device{};
  host.size = call.size;
  host.absent = call.absent;
  host.divisor = call.divisor;
  host.tensor_bytes = call.tensor_bytes;
  return host;
}

}  // namespace

class StagedBackend::State {
 public:
  State(std::shared_ptr<DeviceRuntime> runtime, int device, std::shared_ptr<PinnedPool> pinned,
        CollectiveBackend& inner, StagingOptions options)
      : options_(std::move(options)),
        piece_bytes_(std::max(kAlignment, options_.piece_bytes / kAlignment * kAlignment)),
        inner_(inner),
        transfers_(std::move(runtime), device, std::move(pinned), options_) {}

  const CollectiveBackend& inner() const { return inner_; }

  Status Execute(CollectiveCall& call) {
    if (!failure_.ok()) return failure_;
    // An exception of the inner backend leaves the ranks out of step, too.
    failure_ = Error(StatusCode::kInternal, "an operation before broke an invariant");
    Status status = Run(call);
    if (!status.ok()) transfers_.Abandon(call.stream);
    return failure_ = std::move(status);
  }

 private:
  Status Run(CollectiveCall& call) {
    const OpKind kind = call.params.kind;
    if (kind == OpKind::kBarrier || kind == OpKind::kJoin) {
      CollectiveCall host = OnHost(call);
      return inner_.Execute(host);
    }
    if (!IsAdasum(call.params)) CheckCall(call, options_.rank, call.size);
    if (Status status = transfers_.Begin(call); !status.ok()) return status;
    const bool in_pieces =
        kind == OpKind::kBroadcast || (kind == OpKind::kAllreduce && !IsAdasum(call.params));
    if (Status status = in_pieces ? InPieces(call) : AsAWhole(call); !status.ok()) return status;
    return transfers_.End(call.stream);
  }

  // Whether this rank has an operand.
  bool Brings(const CollectiveCall& call) const {
    if (call.params.kind == OpKind::kBroadcast) return call.params.root_rank == options_.rank;
    return !call.absent.Contains(options_.rank);
  }

  Status InPieces(CollectiveCall& call) {
    const std::uint64_t total = call.bytes_per_rank[0];
    const std::uint64_t pieces = std::max<std::uint64_t>(1, CeilDivide(total, piece_bytes_));
    const Share share(total, pieces);
    const bool brings = Brings(call);
    const bool keeps = brings && call.params.kind == OpKind::kBroadcast &&
                       IsSameMemory(call.inputs[0], call.outputs[0]);
    std::array<StagingArea*, kAreas> areas{};
    for (std::size_t i = 0; i < std::min<std::uint64_t>(kAreas, pieces); ++i) {
      const Result<StagingArea*> area = transfers_.Take(share.BytesAt(0));
      if (!area) return area.error();
      areas[i] = *area;
    }
    const auto memory_of = [&](std::uint64_t piece) {
      return std::span(areas[piece % kAreas]->memory.get(), share.BytesAt(piece));
    };
    const auto bring_down = [&](std::uint64_t piece) {
      if (!brings || piece >= pieces) return Status::Ok();
      copies_.clear();
      AddDown(call.inputs[0], share.OffsetAt(piece), memory_of(piece), copies_);
      return transfers_.Down(copies_, *areas[piece % kAreas]);
    };
    if (Status status = bring_down(0); !status.ok()) return status;
    for (std::uint64_t piece = 0; piece < pieces; ++piece) {
      // Into the area of piece - 2, which has been on its way up for as long as the last one took.
      if (Status status = bring_down(piece + 1); !status.ok()) return status;
      StagingArea& area = *areas[piece % kAreas];
      if (Status status = transfers_.Await(area); !status.ok()) return status;
      if (Status status = WorkOn(memory_of(piece), call, brings); !status.ok()) return status;
      if (keeps) continue;
      copies_.clear();
      AddUp(memory_of(piece), call.outputs[0], share.OffsetAt(piece), copies_);
      if (Status status = transfers_.Up(copies_, area); !status.ok()) return status;
    }
    return Status::Ok();
  }

  Status WorkOn(std::span<std::byte> piece, const CollectiveCall& call, bool brings) {
    CollectiveCall host = OnHost(call);
    host.bytes_per_rank = {piece.size()};
    if (brings) host.inputs.push_back(ByteStream({piece}));
    host.outputs.push_back(ByteStream({piece}));
    return inner_.Execute(host);
  }

  Status AsAWhole(CollectiveCall& call) {
    const bool brings = Brings(call);
    if (!brings) call.inputs.clear();
    std::uint64_t bytes = 0;
    for (const ByteStream& input : call.inputs) bytes += Aligned(input.size());
    for (const ByteStream& output : call.outputs) bytes += Aligned(output.size());
    const Result<StagingArea*> area = transfers_.Take(bytes);
    if (!area) return area.error();

    CollectiveCall host = OnHost(call);
    host.bytes_per_rank = call.bytes_per_rank;
    std::byte* next = (*area)->memory.get();
    copies_.clear();
    for (ByteStream& input : call.inputs) {
      const std::span<std::byte> staged(next, input.size());
      AddDown(input, 0, staged, copies_);
      host.inputs.push_back(ByteStream({staged}));
      next += Aligned(input.size());
    }
    if (Status status = transfers_.Down(copies_, **area); !status.ok()) return status;
    copies_.clear();
    for (ByteStream& output : call.outputs) {
      const std::span<std::byte> staged(next, output.size());
      AddUp(staged, output, 0, copies_);
      host.outputs.push_back(ByteStream({staged}));
      next += Aligned(output.size());
    }
    if (Status status = transfers_.Await(**area); !status.ok()) return status;
    Status status = IsAdasum(call.params) ? RunAdasum(inner_, options_.rank, host)  //
                                          : inner_.Execute(host);
    if (!status.ok()) return status;
    return transfers_.Up(copies_, **area);
  }

  const StagingOptions options_;
  const std::uint64_t piece_bytes_;
  CollectiveBackend& inner_;
  Transfers transfers_;
  Status failure_;
  Copies copies_;  // kept for its memory
};

StagedBackend::StagedBackend(std::shared_ptr<DeviceRuntime> runtime, int device,
                             std::shared_ptr<PinnedPool> pinned, CollectiveBackend& inner,
                             StagingOptions options)
    : state_(std::make_unique<State>(std::move(runtime), device, std::move(pinned), inner,
                                     std::move(options))) {}

StagedBackend::~StagedBackend() = default;

bool StagedBackend::Supports(const OpParams& params) const {
  if (params.device.type != DeviceType::kCuda) return false;
  OpParams host = params;
  host.device = Device{};
  if (IsAdasum(params)) {
    if (!IsReducible(params.dtype, ReduceOp::kAdasum)) return false;
    host.reduce_op = ReduceOp::kSum;  // it is made of what moves bytes
  }
  return state_->inner().Supports(host);
}

void StagedBackend::Retune(const Tuning&) {}

Status StagedBackend::Execute(CollectiveCall& call) { return state_->Execute(call); }

}  // namespace hora
