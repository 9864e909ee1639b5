#include "hora/collectives/hierarchical/hierarchical_backend.h"

#include <utility>

#include "hora/base/check.h"
#include "hora/collectives/check_call.h"
#include "hora/collectives/hierarchical/lane_shares.h"

namespace hora {

bool MustBeExact(const CollectiveCall& call) {
  if (!call.absent.empty()) return true;
  const ReduceOp op = call.params.reduce_op;
  const bool scales = call.params.prescale != 1.0 || call.params.postscale != 1.0;
  switch (call.params.dtype) {
    // A sum of a host is rounded by a half of its last bit; what is scaled or multiplied on the way
    // may leave the range, or lose more.
    case DType::kFloat16:
    case DType::kBFloat16:
      if (op == ReduceOp::kMin || op == ReduceOp::kMax) return scales;
      return op == ReduceOp::kProduct;
    case DType::kFloat32:
    case DType::kFloat64:
    case DType::kComplex64:
    case DType::kComplex128:
    case DType::kBool:
      return false;
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kUInt16:
    case DType::kInt16:
    case DType::kUInt32:
    case DType::kInt32:
    case DType::kUInt64:
    case DType::kInt64:
      return op == ReduceOp::kAverage || scales;
    default:
      return true;
  }
}

HierarchicalBackend::HierarchicalBackend(HostLayout layout, int rank,
                                         std::unique_ptr<CollectiveBackend> inside,
                                         std::unique_ptr<CollectiveBackend> across,
                                         std::uint64_t lane_piece_bytes)
    : layout_(std::move(layout)),
      rank_(rank),
      host_(layout_.host_of(rank)),
      local_(layout_.local_of(rank)),
      lanes_(layout_.lanes()),
      lane_piece_bytes_(lane_piece_bytes),
      inside_(std::move(inside)),
      across_(std::move(across)),
      small_bytes_(kDefaultSmallBytes) {
  Check(inside_ != nullptr, "a host has a backend of its own");
  Check(layout_.hosts() == 1 || (across_ != nullptr) == has_lane(),
        "exactly the ranks with a lane reach the other hosts");
}

bool HierarchicalBackend::Supports(const OpParams& params) const {
  return inside_->Supports(params) && (across_ == nullptr || across_->Supports(params));
}

void HierarchicalBackend::Retune(const Tuning& tuning) {
  inside_->Retune(tuning);
  if (across_ != nullptr) across_->Retune(tuning);
  small_bytes_ = tuning.small_allreduce_bytes;
}

Status HierarchicalBackend::Execute(CollectiveCall& call) {
  if (!failure_.ok()) return failure_;
  // Where one of the two does it all, it also checks.
  if (layout_.hosts() == 1) return failure_ = inside_->Execute(call);
  if (layout_.size() == layout_.hosts()) return failure_ = across_->Execute(call);
  CheckCall(call, rank_, layout_.size());
  return failure_ = Run(call);
}

Status HierarchicalBackend::Run(CollectiveCall& call) {
  switch (call.params.kind) {
    case OpKind::kAllreduce:
      return Allreduce(call);
    case OpKind::kReducescatter:
      return Reducescatter(call);
    case OpKind::kAllgather:
      return Allgather(call);
    case OpKind::kAlltoall:
      return Alltoall(call);
    case OpKind::kBroadcast:
      return Broadcast(call);
    case OpKind::kBarrier:
    case OpKind::kJoin:
      return Status::Ok();  // to have agreed on it is all there is
  }
  return Status::Ok();
}

}  // namespace hora
