// What a process set has to do with its rank's GPU.
#include <array>

#include "hora/base/format.h"
#include "hora/engine/process_set.h"
#include "hora/engine/process_set_text.h"

namespace hora {
namespace {

Status NotPut(const CollectiveCall& call, std::string_view why) {
  return Error(StatusCode::kInvalidArgument, "{} in program order is refused: {}",
               ToString(call.params.kind), why);
}

Status NotInGraph(const CollectiveCall& call, std::string_view why) {
  return Error(StatusCode::kInvalidArgument,
               "{} in program order cannot be captured into a CUDA graph: {}",
               ToString(call.params.kind), why);
}

}  // namespace

// Their streams would wait for a rank that does not come.
void ProcessSet::AbortDevices(const Status& cause) {
  bulk_.device().Abort(cause);
  ordered_device_->Abort(cause);
}

// Both lanes at once: one that hangs leaves the other its time.
void ProcessSet::CloseDevices() {
  const std::array<DeviceLane*, 2> lanes{&bulk_.device(), ordered_device_.get()};
  const TimePoint now = SteadyClock::Instance().Now();
  const Duration farewell = ordered_device_->farewell();
  for (DeviceLane* const lane : lanes) lane->BeginEnd();
  for (DeviceLane* const lane : lanes) lane->AwaitEnd(now + farewell / 2);
  bulk_.CloseDevice(now + farewell);
  ordered_device_->Close(now + farewell);
}

bool ProcessSet::DeviceIsAtWork() const {
  return bulk_.device().needs_watch() || ordered_device_->needs_watch();
}

bool ProcessSet::NeedsDeviceWatch() const {
  return DeviceIsAtWork() && !watching_.load() && !failing_.load();
}

// Whoever put something on the device does not wait for it, so nobody else would see that it fails.
void ProcessSet::WatchDevice() {
  watching_.store(DeviceIsAtWork() && !failing_.load());
  if (!watching_.load() || SteadyClock::Instance().Now() < next_look_) return;
  next_look_ = SteadyClock::Instance().Now() + kNextDeviceLook;
  for (DeviceLane* const lane : {&bulk_.device(), ordered_device_.get()}) {
    if (Status status = lane->Check(); !status.ok()) Fail(status);
  }
}

Status ProcessSet::RunOrdered(CollectiveCall& call) {
  const std::lock_guard lock(ordered_mutex_);
  if (board_->aborted()) return board_->abort_status();
  if (ordered_ == nullptr || failing_.load()) {
    return InProcessSet(options_.id,
                        Error(StatusCode::kShutDown, "rank {} has left", global_rank()));
  }
  bool is_refused = false;
  const Status status =
      IsOnDevice(call.params) ? RunOrderedOnDevice(call, is_refused) : ordered_->Execute(call);
  if (is_refused) return InProcessSet(options_.id, status);
  if (!status.ok()) Fail(status);
  if (NeedsDeviceWatch()) bell().Wake();
  return status;
}

Status ProcessSet::RunOrderedOnDevice(CollectiveCall& call, bool& is_refused) {
  RankDevice& device = *options_.resources.device;
  Status status = device.Choose(call.params.device.index);
  is_refused = status.code() == StatusCode::kInvalidArgument;
  if (is_refused) return status;
  bool is_captured = false;
  if (status.ok()) {  // else the others have to be told, by Open
    const Result<bool> capturing = (*device.runtime())->IsCapturing(call.stream);
    // A lost device is the set's end; what cannot be told of this stream is the caller's affair.
    is_refused = !capturing && capturing.error().code() != StatusCode::kInternal;
    if (is_refused) {
      return NotPut(call, fmt::format("whether its stream is being captured cannot be told: {}",
                                      capturing.error().message()));
    }
    if (!capturing) return capturing.error();
    is_captured = *capturing;
  }
  is_refused = is_captured && !ordered_device_->is_open();
  if (is_refused) {
    return NotInGraph(call,
                      "it is the first one on GPU tensors, which makes what the others use: "
                      "run it once before the capture");
  }
  status = ordered_device_->Open();
  is_refused = !ordered_device_->refusal().ok();
  if (is_refused) return ordered_device_->refusal();
  if (!status.ok()) return status;
  CollectiveBackend& backend = ordered_device_->BackendFor(call.params);
  is_refused = is_captured && !backend.CanBeCaptured();
  if (is_refused) {
    return NotInGraph(call,
                      "it goes through the host's memory, where no graph can wait for it: "
                      "leave it outside (the log says why it goes there)");
  }
  status = backend.Execute(call);
  is_refused = is_captured && status.code() == StatusCode::kInvalidArgument;
  if (status.ok()) ordered_device_->LeaveUnmarked();
  return status;
}

}  // namespace hora
