#include "hora/bindings/device_use.h"

#include <pybind11/pybind11.h>

#include <string_view>
#include <utility>

#include "hora/base/format.h"
#include "hora/bindings/device_calls.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

// Asked before anything is done, which would fail and break the capture, too.
Status RefuseCapture(DeviceRuntime& runtime, DeviceStream stream, std::string_view why) {
  const Result<bool> capturing = runtime.IsCapturing(stream);
  if (!capturing) return capturing.error();
  if (!*capturing) return Status::Ok();
  return Error(StatusCode::kInvalidArgument,
               "the current stream is being captured into a CUDA graph, and {}", why);
}

}  // namespace

DeviceStream DeviceUse::stream_now() const { return CurrentStream(query_, index_); }

Result<std::shared_ptr<DeviceUse>> DeviceUse::Begin(RankDevice& device, int index,
                                                    StreamQuery query, EventPool::Lease& ready) {
  if (device.index() != index) {
    const py::gil_scoped_release release;
    if (Status status = device.Choose(index); !status.ok()) return Fail(std::move(status));
  }
  const DeviceStream stream = CurrentStream(query, index);
  Result<std::shared_ptr<DeviceRuntime>> runtime = device.runtime();
  if (!runtime) return Fail(std::move(runtime.error()));
  constexpr std::string_view kNotInGraphs =
      "ranks agree on an operation by its name each time, so a graph cannot repeat it. Leave it "
      "outside: capture what comes before and what comes after it as graphs of their own";
  if (Status status = RefuseCapture(**runtime, stream, kNotInGraphs); !status.ok()) {
    return Fail(std::move(status));
  }
  Result<EventPool::Lease> mark = device.Mark(stream);
  if (!mark) return Fail(std::move(mark.error()));
  ready = std::move(*mark);
  return std::make_shared<DeviceUse>(std::move(*runtime), index, query, stream);
}

Result<DeviceUse::Order> DeviceUse::Follow(const EventPool::Lease& event, DeviceEvent known) {
  const DeviceStream now = stream_now();
  if (event != nullptr && !(*event == known)) {
    constexpr std::string_view kNotFromOutside =
        "a graph cannot wait for an operation outside of it. Wait before the capture, or after it";
    Status status = RefuseCapture(*runtime_, now, kNotFromOutside);
    if (status.ok()) status = runtime_->Wait(now, *event);
    if (!status.ok()) return Fail(std::move(status));
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
