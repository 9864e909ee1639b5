#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "hora/bindings/bind.h"
#include "hora/bindings/device_calls.h"
#include "hora/bindings/inside_python.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

void Choose(int index) {
  const std::shared_ptr<Engine> engine = CurrentEngine();
  const Status status = [&] {
    const py::gil_scoped_release release;
    return engine->device().Choose(index);
  }();
  RaiseIfError(status);
}

}  // namespace

void BindDevice(py::module_& module) {
  InsidePython::CloseAtExit();
  module.def("choose_device", &Choose, py::arg("index"));
  module.def("chosen_device", [] { return CurrentEngine()->device().index(); });
  module.def(
      "set_device_calls",
      [](py::object current_stream, py::object allocate, py::object record,
         py::object empty_cache) {
        CallsOnDevice() = {std::move(current_stream), std::move(allocate), std::move(record),
                           std::move(empty_cache)};
        if (HasEngine()) CurrentEngine()->device().SetAllocator(ResultAllocator(), EmptyCache);
      },
      py::arg("current_stream"), py::arg("allocate"), py::arg("record"),
      py::arg("empty_cache") = py::none());
}

}  // namespace hora::bindings
