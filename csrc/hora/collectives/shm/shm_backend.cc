#include "hora/collectives/shm/shm_backend.h"

#include "hora/collectives/check_call.h"
#include "hora/collectives/shm/in_place.h"

namespace hora {
namespace {

Status Run(StepWindows& windows, ReduceState& reduce, DirectCopy& direct, CollectiveCall& call) {
  switch (call.params.kind) {
    case OpKind::kAllreduce:
      return call.in_place == nullptr ? ShmAllreduce(windows, reduce, call)
                                      : ShmAllreduceInPlace(windows, reduce, call);
    case OpKind::kReducescatter:
      return ShmReducescatter(windows, reduce, call);
    case OpKind::kAllgather:
      return ShmAllgather(windows, direct, call);
    case OpKind::kAlltoall:
      return ShmAlltoall(windows, direct, call);
    case OpKind::kBroadcast:
      return ShmBroadcast(windows, call);
    case OpKind::kBarrier:
    case OpKind::kJoin:
      return Status::Ok();  // to have agreed on it is all there is
  }
  return Status::Ok();
}

}  // namespace

ShmBackend::ShmBackend(std::shared_ptr<Board> board, ShmLaneOptions options)
    : windows_(std::move(board), options),
      direct_(windows_, options.direct_copy_bytes),
      reduce_(windows_.size()) {}

bool ShmBackend::Supports(const OpParams& params) const { return CpuCan(params); }

void ShmBackend::Retune(const Tuning& tuning) {
  windows_.set_chunk_bytes(tuning.chunk_bytes);
  reduce_.small_bytes = tuning.small_allreduce_bytes;
}

Status ShmBackend::Execute(CollectiveCall& call) {
  if (!failure_.ok()) return failure_;
  CheckCall(call, windows_.self(), windows_.size());
  failure_ = Run(windows_, reduce_, direct_, call);
  return failure_;
}

}  // namespace hora
