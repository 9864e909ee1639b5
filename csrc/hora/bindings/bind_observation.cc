#include <pybind11/stl.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "hora/base/format.h"
#include "hora/base/logging.h"
#include "hora/bindings/bind.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

py::dict MetricValues() {
  py::dict values;
  for (const auto& [name, value] : CurrentEngine()->metrics().Values()) {
    values[py::str(name.data(), name.size())] = value;
  }
  return values;
}

py::list Pending() {
  const TimePoint now = SteadyClock::Instance().Now();
  py::list operations;
  for (const auto& set : CurrentEngine()->Sets()) {
    for (const PendingOperation& each : set->queue().Pending()) {
      const std::chrono::duration<double> waited = now - each.since;
      operations.append(py::make_tuple(set->id(), ToString(each.kind), each.name, waited.count()));
    }
  }
  return operations;
}

py::dict TuningValues() {
  const Tuning tuning = CurrentEngine()->global().tuning();
  py::dict values;
  values["fusion_threshold_bytes"] = tuning.fusion_threshold_bytes;
  values["chunk_bytes"] = tuning.chunk_bytes;
  values["small_allreduce_bytes"] = tuning.small_allreduce_bytes;
  values["urgent_bytes"] = tuning.urgent_bytes;
  return values;
}

void SetLevel(const std::string& name) {
  const std::optional<LogLevel> level = ParseLogLevel(name);
  if (!level) {
    Raise(Error(StatusCode::kInvalidArgument,
                "'{}' is no log level; trace, debug, info, warning, error and off are", name));
  }
  SetLogLevel(*level);
}

void StartTimeline(const std::string& path, bool mark_cycles) {
  const std::shared_ptr<Engine> engine = CurrentEngine();
  const Status status = [&] {
    const py::gil_scoped_release release;
    return engine->timeline().Start(path, mark_cycles);
  }();
  RaiseIfError(status);
}

void StopTimeline() {
  const std::shared_ptr<Engine> engine = CurrentEngine();
  const Status status = [&] {
    const py::gil_scoped_release release;
    return engine->timeline().Stop();
  }();
  RaiseIfError(status);
}

}  // namespace

void BindObservation(py::module_& module) {
  module.def("metrics", &MetricValues);
  module.def("pending", &Pending);
  module.def("tuning", &TuningValues);
  module.def("set_log_level", &SetLevel, py::arg("level"));
  module.def("start_timeline", &StartTimeline, py::arg("path"), py::arg("mark_cycles") = false);
  module.def("stop_timeline", &StopTimeline);
}

}  // namespace hora::bindings
