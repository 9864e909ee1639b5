#include "hora/collectives/shm/shm_backend.h"

#include "hora/base/check.h"

namespace hora {
namespace {

void CheckAllgather(const CollectiveCall& call, std::size_t self) {
  const auto size = static_cast<std::size_t>(call.size);
  Check(call.bytes_per_rank.size() == size, "an allgather states the bytes of every rank");
  Check(call.outputs.size() == size, "an allgather has one output stream per rank");
  Check(call.input.size() == call.bytes_per_rank[self], "the input is what this rank announced");
  for (std::size_t rank = 0; rank < size; ++rank) {
    Check(call.outputs[rank].size() == call.bytes_per_rank[rank], "an output fits its rank's rows");
  }
}

// What the algorithms rely on; a broken promise here would be a write out of bounds there.
void CheckCall(const CollectiveCall& call, const StepWindows& windows) {
  Check(call.size == windows.size(), "a call is for all ranks of the board");
  const OpParams& params = call.params;
  if (params.kind == OpKind::kBarrier) return;
  if (params.kind == OpKind::kAllgather) {
    return CheckAllgather(call, static_cast<std::size_t>(windows.self()));
  }
  Check(call.bytes_per_rank.size() == 1 && call.outputs.size() == 1,
        "one total, one output stream");
  const std::uint64_t total = call.bytes_per_rank[0];
  Check(call.outputs[0].size() == total, "the output has the agreed size");
  if (params.kind == OpKind::kBroadcast) {
    Check(params.root_rank >= 0 && params.root_rank < call.size, "the root is one of the ranks");
    Check(params.root_rank != windows.self() || call.input.size() == total,
          "the root's input has the agreed size");
  } else {
    Check(call.input.size() == total, "the input has the agreed size");
    Check(total % SizeOf(params.dtype) == 0, "an allreduce moves whole elements");
  }
}

Status Run(StepWindows& windows, ReducePointers& pointers, CollectiveCall& call) {
  switch (call.params.kind) {
    case OpKind::kAllreduce:
      return ShmAllreduce(windows, pointers, call);
    case OpKind::kAllgather:
      return ShmAllgather(windows, call);
    case OpKind::kBroadcast:
      return ShmBroadcast(windows, call);
    case OpKind::kBarrier:
      return Status::Ok();  // to have agreed on it is the barrier
  }
  return Status::Ok();
}

}  // namespace

ShmBackend::ShmBackend(std::shared_ptr<Board> board, const ShmBackendOptions& options)
    : windows_(std::move(board), options.rank, options.wait, options.patience),
      pointers_(windows_.size()) {}

bool ShmBackend::Supports(const OpParams& params) const {
  if (params.device.type != DeviceType::kCpu) return false;
  if (params.kind != OpKind::kAllreduce) return true;
  const bool mean_of_truths =
      params.dtype == DType::kBool && params.reduce_op == ReduceOp::kAverage;
  return IsReducible(params.dtype) && !mean_of_truths;
}

Status ShmBackend::Execute(CollectiveCall& call) {
  if (!failure_.ok()) return failure_;
  CheckCall(call, windows_);
  failure_ = Run(windows_, pointers_, call);
  return failure_;
}

}  // namespace hora
