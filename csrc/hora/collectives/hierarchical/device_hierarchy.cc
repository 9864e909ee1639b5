#include "hora/collectives/hierarchical/device_hierarchy.h"

#include <utility>

#include "hora/collectives/hierarchical/lane_shares.h"

namespace hora {
namespace {

// What crosses is cut where it is staged; to cut it here, too, would only add launches.
constexpr std::uint64_t kDevicePieceBytes = 1u << 30;

}  // namespace

DeviceHierarchy::DeviceHierarchy(HostLayout layout, int rank,
                                 std::unique_ptr<CollectiveBackend> inside,
                                 std::unique_ptr<CollectiveBackend> across,
                                 CollectiveBackend& whole)
    : has_layers_(layout.hosts() > 1),
      inside_(*inside),
      layers_(std::move(layout), rank, std::move(inside), std::move(across), kDevicePieceBytes),
      whole_(whole) {}

bool DeviceHierarchy::GoesInLayers(const CollectiveCall& call) const {
  switch (call.params.kind) {
    case OpKind::kAllgather:
    case OpKind::kBroadcast:
      return true;
    case OpKind::kAllreduce: {
      if (call.params.reduce_op == ReduceOp::kAdasum || MustBeExact(call)) return false;
      CollectiveCall inside = PartialCall(call, OpKind::kAllreduce, 1);
      CollectiveCall across = PartialCall(call, OpKind::kAllreduce, 1);
      ScaleInside(call, inside, across);
      // Inside the only host it is done in one step, with all scales.
      return inside_.Supports(has_layers_ ? inside.params : call.params);
    }
    default:
      return false;
  }
}

Status DeviceHierarchy::Execute(CollectiveCall& call) {
  return GoesInLayers(call) ? layers_.Execute(call) : whole_.Execute(call);
}

}  // namespace hora
