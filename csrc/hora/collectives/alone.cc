#include "hora/collectives/alone.h"

#include <cstddef>

#include "hora/collectives/paired_pieces.h"

namespace hora {

ReduceSpec SpecOf(const CollectiveCall& call) {
  return {.dtype = call.params.dtype,
          .op = call.params.reduce_op,
          .prescale = call.params.prescale,
          .postscale = call.params.postscale,
          .divisor = call.divisor};
}

void ReduceAlone(ByteStream& input, ByteStream& output, const ReduceSpec& spec) {
  const std::size_t element_bytes = SizeOf(spec.dtype);
  const auto reduce = [&](const std::byte* from, std::byte* to, std::size_t bytes) {
    Reduce(spec, {&from, 1}, {&to, 1}, bytes / element_bytes);
  };
  ForEachPair(input, output, 0, input.size(), reduce);
}

void RunAlone(CollectiveCall& call) {
  switch (call.params.kind) {
    case OpKind::kAllreduce:
    case OpKind::kReducescatter:
      return ReduceAlone(call.inputs[0], call.outputs[0], SpecOf(call));
    case OpKind::kAllgather:
    case OpKind::kAlltoall:
    case OpKind::kBroadcast:
      return CopyPieces(call.inputs[0], call.outputs[0], 0, call.outputs[0].size());
    case OpKind::kBarrier:
    case OpKind::kJoin:
      return;
  }
}

}  // namespace hora
