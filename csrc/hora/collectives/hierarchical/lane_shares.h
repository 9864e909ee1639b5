// How bytes are shared out among the lanes of a host, and calls of parts of an operation.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "hora/collectives/collective_backend.h"
#include "hora/collectives/steps.h"
#include "hora/tensor/byte_stream.h"

namespace hora {

struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  std::uint64_t bytes() const { return end - begin; }
};

inline ByteRange Overlap(ByteRange a, ByteRange b) {
  const std::uint64_t begin = std::max(a.begin, b.begin);
  return {begin, std::max(begin, std::min(a.end, b.end))};
}

// Lane `lane`'s part of `window`: even, of whole cache lines; nothing for ranks without a lane.
inline ByteRange PartOfLane(ByteRange window, int lane, int lanes) {
  const std::uint64_t lines = CeilDivide(window.bytes(), 64);
  const auto cut = [&](int l) {
    const std::uint64_t line =
        lines * static_cast<std::uint64_t>(std::min(l, lanes)) / static_cast<std::uint64_t>(lanes);
    return std::min(window.begin + line * 64, window.end);
  };
  return {cut(lane), cut(lane + 1)};
}

inline ByteRange WindowAt(const Share& share, std::uint64_t step) {
  return {share.OffsetAt(step), share.OffsetAt(step + 1)};
}

// Puts together a stream of parts of others.
class StreamOfParts {
 public:
  StreamOfParts& Add(ByteStream& stream, ByteRange range) {
    stream.ForEachPiece(range.begin, range.bytes(),
                        [this](std::span<std::byte> piece) { segments_.push_back(piece); });
    return *this;
  }
  StreamOfParts& Add(std::span<std::byte> memory) {
    if (!memory.empty()) segments_.push_back(memory);
    return *this;
  }
  ByteStream Take() { return ByteStream(std::exchange(segments_, {})); }

 private:
  std::vector<std::span<std::byte>> segments_;
};

inline ByteStream PartOf(ByteStream& stream, ByteRange range) {
  return StreamOfParts().Add(stream, range).Take();
}

// A part of `call`, for `size` ranks: without scales and divisor.
inline CollectiveCall PartialCall(const CollectiveCall& call, OpKind kind, int size) {
  CollectiveCall part;
  part.params.kind = kind;
  part.params.dtype = call.params.dtype;
  part.params.device = call.params.device;
  part.params.reduce_op =
      call.params.reduce_op == ReduceOp::kAverage ? ReduceOp::kSum : call.params.reduce_op;
  part.size = size;
  part.fused = call.fused;
  part.stream = call.stream;
  return part;
}

// The factors of a reduction in two steps, inside the hosts and across them. Sums are scaled and
// divided in the first, so that halves do not leave their range on the way.
inline void ScaleInside(const CollectiveCall& call, CollectiveCall& inside,
                        CollectiveCall& across) {
  const ReduceOp op = call.params.reduce_op;
  inside.params.prescale = call.params.prescale;
  if (op == ReduceOp::kSum || op == ReduceOp::kAverage) {
    inside.params.reduce_op = op;
    inside.params.postscale = call.params.postscale;
    inside.divisor = call.divisor;
  } else {
    across.params.postscale = call.params.postscale;
  }
}

// Whether sums of sums would be others than the sums of all: see HierarchicalBackend.
bool MustBeExact(const CollectiveCall& call);

}  // namespace hora
