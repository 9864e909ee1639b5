#include "hora/collectives/nccl/nccl_backend.h"

#include <utility>

#include "hora/base/check.h"
#include "hora/collectives/check_call.h"
#include "hora/collectives/nccl/moves.h"
#include "hora/cuda/current_device.h"

namespace hora {

class NcclBackend::State {
 public:
  State(std::shared_ptr<DeviceRuntime> runtime, int device,
        std::unique_ptr<NcclCommunicator> communicator, const NcclBackendOptions& options)
      : runtime_(std::move(runtime)),
        device_(device),
        call_alone_(options.call_alone),
        memory_(runtime_, device, *communicator, options.make_room),
        communicator_(std::move(communicator)) {
    const Result<DeviceFacts> facts = runtime_->Facts(device);
    if (facts) compute_major_ = facts->compute_major;
  }

  std::optional<NcclReduction> ReductionOf(const OpParams& params) const {
    const DType number = ComponentOf(params.dtype);
    const bool averages = params.reduce_op == ReduceOp::kAverage;
    const bool adds = averages || params.reduce_op == ReduceOp::kSum;
    const bool scales = params.prescale != 1.0 || params.postscale != 1.0;
    const bool is_integer = SizeOf(number) > 1 ? !IsFloatingPoint(number)
                                               : number == DType::kInt8 || number == DType::kUInt8;
    // Means and scales of integers are made of exact sums, for which NCCL has no room; what is
    // scaled and not added is rounded once, and here it would be twice.
    if (is_integer && (averages || scales)) return std::nullopt;
    if (scales && !adds && number != DType::kBool) return std::nullopt;
    return NcclReductionOf(params.dtype, params.reduce_op, communicator_->library().version(),
                           compute_major_);
  }

  Status Execute(CollectiveCall& call) {
    const NcclCommunicatorOptions& options = communicator_->options();
    CheckCall(call, options.rank, options.size);
    const CurrentDevice current(*runtime_, device_);  // NCCL looks at it
    if (!current.status().ok()) return current.status();
    NcclMoves moves(*runtime_, communicator_.get(), memory_, call);
    if (options.size == 1 && !call_alone_) return moves.Alone();
    switch (call.params.kind) {
      case OpKind::kAllreduce:
      case OpKind::kReducescatter: {
        const std::optional<NcclReduction> reduction = ReductionOf(call.params);
        hora::Check(reduction.has_value(), "NCCL is asked for what it supports");
        return call.params.kind == OpKind::kAllreduce ? moves.Allreduce(*reduction)
                                                      : moves.Reducescatter(*reduction);
      }
      case OpKind::kAllgather:
        return moves.Allgather();
      case OpKind::kBroadcast:
        return moves.Broadcast();
      case OpKind::kAlltoall:
        return moves.Alltoall();
      case OpKind::kBarrier:
      case OpKind::kJoin:
        return Status::Ok();  // to have agreed on it is all there is
    }
    return Status::Ok();
  }

  NcclCommunicator& communicator() { return *communicator_; }

 private:
  const std::shared_ptr<DeviceRuntime> runtime_;
  const int device_;
  const bool call_alone_;
  NcclFusionMemory memory_;
  // Ends first: then nothing that uses the memory hangs on a stream.
  const std::unique_ptr<NcclCommunicator> communicator_;
  int compute_major_ = 0;
};

NcclBackend::NcclBackend(std::shared_ptr<DeviceRuntime> runtime, int device,
                         std::unique_ptr<NcclCommunicator> communicator, NcclBackendOptions options)
    : state_(
          std::make_unique<State>(std::move(runtime), device, std::move(communicator), options)) {}

NcclBackend::~NcclBackend() = default;

bool NcclBackend::Supports(const OpParams& params) const {
  if (params.device.type != DeviceType::kCuda) return false;
  const bool reduces = params.kind == OpKind::kAllreduce || params.kind == OpKind::kReducescatter;
  return !reduces || state_->ReductionOf(params).has_value();
}

void NcclBackend::Retune(const Tuning&) {}  // NCCL tunes itself

Status NcclBackend::Execute(CollectiveCall& call) {
  const Status status = state_->Execute(call);
  if (status.ok()) return status;
  // A capture was refused memory, and nothing is on any stream.
  const bool is_refused = status.code() == StatusCode::kInvalidArgument;
  if (is_refused && state_->communicator().Check().ok()) return status;
  // Peers must not wait for what was not put on this rank's stream.
  Abort(status);
  return is_refused ? Status(StatusCode::kInternal, status.message()) : status;
}

Status NcclBackend::Check() { return state_->communicator().Check(); }

void NcclBackend::Abort(const Status& cause) { state_->communicator().Abort(cause); }

void NcclBackend::BeginEnd() { state_->communicator().BeginEnd(); }

void NcclBackend::AwaitEnd(TimePoint until) { state_->communicator().AwaitEnd(until); }

bool NcclBackend::End(TimePoint deadline) { return state_->communicator().End(deadline); }

}  // namespace hora
