#include "hora/bindings/bound_handle.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "hora/base/format.h"
#include "hora/bindings/device_calls.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// How long a signal that arrives while this thread spins may go unnoticed.
constexpr Duration kSignalCheckInterval = std::chrono::milliseconds(100);

// Tensors of operations that Python no longer looks after; guarded by the GIL, never destroyed.
struct Orphan {
  std::shared_ptr<Handle> handle;
  py::object input;
  py::object output;
  std::shared_ptr<DeviceUse> device;
};

std::vector<Orphan>& Orphans() {
  static auto* orphans = new std::vector<Orphan>();
  return *orphans;
}

// PyTorch's allocator must know of the other stream: results may be dropped while that reads them.
void RecordOnStream(py::handle operand) {
  const py::object& record = CallsOnDevice().record;
  if (!record || !operand || operand.is_none()) return;
  if (!PyTuple_Check(operand.ptr())) {
    record(operand);
    return;
  }
  for (const py::handle tensor : operand) record(tensor);
}

// An operation that was under way when the group was lost has no event, and the device may be at it
// until the engine has ended, which waits for the device. What was refused never came there.
bool EndsWithEngine(const Handle& handle) {
  if (handle.outcome().on_device != nullptr || !HasEngine()) return false;
  switch (handle.status().code()) {
    case StatusCode::kOk:
    case StatusCode::kInvalidArgument:
    case StatusCode::kMismatch:
    case StatusCode::kResource:
      return false;
    default:
      return true;
  }
}

// Whether the device uses none of the operation's memory any more; the handle is done.
bool IsThrough(const Handle& handle, const DeviceUse& device) {
  return !EndsWithEngine(handle) && device.IsPast(handle.outcome().on_device);
}

TimePoint DeadlineAfter(std::optional<double> seconds) {
  constexpr double kForever = 1e9;
  if (!seconds || *seconds >= kForever) return TimePoint::max();
  const std::chrono::duration<double> patience(std::max(*seconds, 0.0));
  return SteadyClock::Instance().Now() + std::chrono::duration_cast<Duration>(patience);
}

}  // namespace

bool UsesOperands(const Handle& handle, const DeviceUse* device) {
  if (!handle.done()) return true;
  if (device == nullptr) return false;
  if (device->is_followed()) return EndsWithEngine(handle);
  return !IsThrough(handle, *device);
}

void KeepOperands(std::shared_ptr<Handle> handle, std::shared_ptr<DeviceUse> device,
                  py::object operands) {
  Orphans().push_back({std::move(handle), std::move(operands), py::object(), std::move(device)});
}

void ReleaseFinishedOrphans() {
  // Moved out first: dropping a tensor may run Python code that comes back here.
  std::vector<Orphan> finished;
  auto& orphans = Orphans();
  bool device_is_busy = false;  // it comes to operations in about their order: one answer will do
  const auto is_open = [&](const Orphan& orphan) {
    if (!orphan.handle->done()) return true;
    if (orphan.device == nullptr) return false;
    device_is_busy = device_is_busy || !IsThrough(*orphan.handle, *orphan.device);
    return device_is_busy;
  };
  const auto open = std::stable_partition(orphans.begin(), orphans.end(), is_open);
  std::move(open, orphans.end(), std::back_inserter(finished));
  orphans.erase(open, orphans.end());
}

BoundHandle::BoundHandle(std::shared_ptr<ProcessSet> set, std::shared_ptr<Handle> handle,
                         py::object input, py::object output, std::shared_ptr<DeviceUse> device)
    : set_(std::move(set)),
      handle_(std::move(handle)),
      input_(std::move(input)),
      output_(std::move(output)),
      device_(std::move(device)) {
  if (!Orphans().empty()) ReleaseFinishedOrphans();
}

BoundHandle::~BoundHandle() {
  if (handle_ == nullptr) return;
  if (handle_->done() && !input_) return;  // let go before
  if (!UsesOperands(*handle_, device_.get())) return;
  Orphans().push_back(
      {std::move(handle_), std::move(input_), std::move(output_), std::move(device_)});
}

bool BoundHandle::IsDone() const {
  return handle_->done() && (device_ == nullptr || device_->IsPast(handle_->outcome().on_device));
}

void BoundHandle::Wait(std::optional<double> timeout_seconds) {
  const TimePoint deadline = DeadlineAfter(timeout_seconds);
  while (!handle_->done()) {
    const TimePoint now = SteadyClock::Instance().Now();
    if (now >= deadline) {
      Raise(Error(StatusCode::kTimeout, "'{}' was not done within {} s; it goes on, wait again",
                  handle_->name(), *timeout_seconds));
    }
    {
      const py::gil_scoped_release release;
      set_->Wait(*handle_, std::min(deadline, now + kSignalCheckInterval));
    }
    if (!handle_->done() && PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
  if (device_ != nullptr) FollowOnStream();
  input_ = output_ = py::object();
  RaiseIfError(handle_->status());
}

// PyTorch's allocator gives a dropped tensor's memory to what comes next on the stream that it was
// made for, and for all it knows the tensor is used on the stream of the submission. Once that one
// comes after the operation, so does whoever gets the memory; before, the tensors stay referenced.
DeviceEvent BoundHandle::FollowOnStream(DeviceEvent known) {
  if (device_ == nullptr) return {};
  const EventPool::Lease& event = handle_->outcome().on_device;
  const Result<DeviceUse::Order> order = device_->Follow(event, known);
  if (!order) Raise(handle_->status().ok() ? order.error() : handle_->status());
  if (!input_) return event == nullptr ? DeviceEvent{} : *event;  // let go before
  if (*order == DeviceUse::Order::kElsewhere) {
    RecordOnStream(input_);
    if (!output_.is(input_)) RecordOnStream(output_);
  }
  if (!device_->is_followed() || EndsWithEngine(*handle_)) {
    Orphans().push_back({handle_, input_, output_, device_});
  }
  return event == nullptr ? DeviceEvent{} : *event;
}

}  // namespace hora::bindings
