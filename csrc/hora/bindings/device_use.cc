#include "hora/bindings/device_use.h"

#include <pybind11/pybind11.h>

#include <utility>

#include "hora/bindings/device_calls.h"

namespace hora::bindings {

namespace py = pybind11;

DeviceStream DeviceUse::stream_now() const { return CurrentStream(query_, index_); }

Result<std::shared_ptr<DeviceUse>> DeviceUse::Begin(RankDevice& device, int index,
                                                    StreamQuery query, EventPool::Lease& ready) {
  if (device.index() != index) {
    const py::gil_scoped_release release;
    if (Status status = device.Choose(index); !status.ok()) return Fail(std::move(status));
  }
  const DeviceStream stream = CurrentStream(query, index);
  Result<EventPool::Lease> mark = device.Mark(stream);
  if (!mark) return Fail(std::move(mark.error()));
  Result<std::shared_ptr<DeviceRuntime>> runtime = device.runtime();
  if (!runtime) return Fail(std::move(runtime.error()));
  ready = std::move(*mark);
  return std::make_shared<DeviceUse>(std::move(*runtime), index, query, stream);
}

Result<DeviceUse::Order> DeviceUse::Follow(const EventPool::Lease& event, DeviceEvent known) {
  const DeviceStream now = stream_now();
  if (event != nullptr && !(*event == known)) {
    if (Status status = runtime_->Wait(now, *event); !status.ok()) return Fail(std::move(status));
  }
  if (!(now == submitted_on_)) return Order::kElsewhere;
  is_followed_ = true;
  return Order::kOnSubmitter;
}

bool DeviceUse::IsPast(const EventPool::Lease& event) const {
  if (event == nullptr) return true;
  const Result<bool> done = runtime_->IsDone(*event);
  return !done || *done;  // a device that is lost gets nowhere
}

}  // namespace hora::bindings
