// What a process set has to do with its rank's GPU.
#include "hora/base/format.h"
#include "hora/engine/process_set.h"
#include "hora/engine/process_set_text.h"

namespace hora {

// Their streams would wait for a rank that does not come.
void ProcessSet::AbortDevices(const Status& cause) {
  bulk_.device().Abort(cause);
  ordered_device_->Abort(cause);
}

bool ProcessSet::NeedsDeviceWatch() const {
  return bulk_.device().is_busy() && !watching_.load() && !failing_.load();
}

// Whoever put something on the device does not wait for it, so nobody else would see that it fails.
void ProcessSet::WatchDevice() {
  watching_.store(bulk_.device().is_busy() && !failing_.load());
  if (!watching_.load() || SteadyClock::Instance().Now() < next_look_) return;
  next_look_ = SteadyClock::Instance().Now() + kNextDeviceLook;
  if (Status status = bulk_.device().Check(); !status.ok()) Fail(status);
}

Status ProcessSet::RunOrdered(CollectiveCall& call) {
  const std::lock_guard lock(ordered_mutex_);
  if (failing_.load()) return board_->abort_status();
  if (ordered_ == nullptr) {
    return InProcessSet(options_.id,
                        Error(StatusCode::kShutDown, "rank {} has left", global_rank()));
  }
  CollectiveBackend* backend = ordered_.get();
  Status status;
  if (IsOnDevice(call.params)) {
    status = options_.resources.device->Choose(call.params.device.index);
    if (status.code() == StatusCode::kInvalidArgument) return InProcessSet(options_.id, status);
    status = ordered_device_->Open();
    if (!ordered_device_->refusal().ok()) {
      return InProcessSet(options_.id, ordered_device_->refusal());
    }
    if (status.ok()) backend = &ordered_device_->BackendFor(call.params);
  }
  if (status.ok()) status = backend->Execute(call);
  if (!status.ok()) Fail(status);
  return status;
}

}  // namespace hora
