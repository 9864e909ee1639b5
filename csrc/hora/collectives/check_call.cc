#include "hora/collectives/check_call.h"

#include <cstddef>
#include <cstdint>

#include "hora/base/check.h"

namespace hora {
namespace {

void CheckOneToOne(const CollectiveCall& call, bool has_input) {
  Check(call.bytes_per_rank.size() == 1 && call.outputs.size() == 1,
        "one total, one output stream");
  const std::uint64_t total = call.bytes_per_rank[0];
  Check(call.outputs[0].size() == total, "the output has the agreed size");
  Check(!has_input || (call.inputs.size() == 1 && call.inputs[0].size() == total),
        "the input has the agreed size");
}

void CheckReduction(const CollectiveCall& call) {
  Check(call.divisor >= 1, "an average divides by a number of ranks");
  Check(call.params.reduce_op != ReduceOp::kAdasum, "RunAdasum takes this reduction apart");
  if (!call.absent.empty()) {
    Check(call.params.kind == OpKind::kAllreduce, "only an allreduce goes on without some ranks");
    Check(call.absent.count() < call.size, "a reduction has an operand");
  }
  for (const std::uint64_t bytes : call.bytes_per_rank) {
    Check(bytes % SizeOf(call.params.dtype) == 0, "a reduction moves whole elements");
  }
}

void CheckAllgather(const CollectiveCall& call, std::size_t self) {
  const auto size = static_cast<std::size_t>(call.size);
  Check(call.bytes_per_rank.size() == size, "an allgather states the bytes of every rank");
  Check(call.inputs.size() == 1 && call.outputs.size() == size,
        "an allgather has one input and one output stream per rank");
  Check(call.inputs[0].size() == call.bytes_per_rank[self],
        "the input is what this rank announced");
  for (std::size_t rank = 0; rank < size; ++rank) {
    Check(call.outputs[rank].size() == call.bytes_per_rank[rank], "an output fits its rank's rows");
  }
}

void CheckReducescatter(const CollectiveCall& call, std::size_t self) {
  const auto size = static_cast<std::size_t>(call.size);
  Check(call.bytes_per_rank.size() == size, "a reducescatter states the bytes for every rank");
  Check(call.inputs.size() == size && call.outputs.size() == 1,
        "a reducescatter has one input stream per rank and one output");
  Check(call.outputs[0].size() == call.bytes_per_rank[self], "the output fits this rank's rows");
  for (std::size_t rank = 0; rank < size; ++rank) {
    Check(call.inputs[rank].size() == call.bytes_per_rank[rank], "an input has its rank's rows");
  }
}

void CheckAlltoall(const CollectiveCall& call, std::size_t self) {
  const auto size = static_cast<std::size_t>(call.size);
  Check(call.bytes_per_rank.size() == size * size, "an alltoall states who sends how much to whom");
  Check(call.inputs.size() == size && call.outputs.size() == size,
        "an alltoall has one input and one output stream per rank");
  for (std::size_t rank = 0; rank < size; ++rank) {
    Check(call.inputs[rank].size() == call.bytes_per_rank[self * size + rank],
          "an input is what this rank sends");
    Check(call.outputs[rank].size() == call.bytes_per_rank[rank * size + self],
          "an output fits what its rank sends");
  }
}

}  // namespace

void CheckCall(const CollectiveCall& call, int self, int size) {
  Check(call.size == size, "a call is for all ranks of the group");
  const int root = call.params.root_rank;
  switch (call.params.kind) {
    case OpKind::kAllreduce:
      CheckOneToOne(call, call.absent.empty() || !call.absent.Contains(self));
      return CheckReduction(call);
    case OpKind::kReducescatter:
      CheckReducescatter(call, static_cast<std::size_t>(self));
      return CheckReduction(call);
    case OpKind::kBroadcast:
      Check(root >= 0 && root < call.size, "the root is one of the ranks");
      return CheckOneToOne(call, root == self);
    case OpKind::kAllgather:
      return CheckAllgather(call, static_cast<std::size_t>(self));
    case OpKind::kAlltoall:
      return CheckAlltoall(call, static_cast<std::size_t>(self));
    case OpKind::kBarrier:
    case OpKind::kJoin:
      return;
  }
}

bool CpuCan(const OpParams& params) {
  if (params.device.type != DeviceType::kCpu) return false;
  const bool reduces = params.kind == OpKind::kAllreduce || params.kind == OpKind::kReducescatter;
  return !reduces || IsReducible(params.dtype, params.reduce_op);
}

}  // namespace hora
