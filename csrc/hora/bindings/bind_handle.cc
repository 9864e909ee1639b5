#include <pybind11/stl.h>

#include <memory>

#include "hora/bindings/bind.h"
#include "hora/bindings/device_calls.h"
#include "hora/bindings/dlpack_lease.h"
#include "hora/bindings/handle_object.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

py::object ToDLPack(const std::shared_ptr<Gathered>& gathered, const py::kwargs&) {
  return LeaseBytes(gathered, gathered->bytes(), gathered->device());
}

py::object MemoryOf(const Gathered& gathered) {
  const py::handle tensor = TensorOf(gathered.on_device());
  return tensor ? py::reinterpret_borrow<py::object>(tensor) : py::none();
}

}  // namespace

void BindHandle(py::module_& module) {
  AddHandleType(module);
  py::class_<Gathered, std::shared_ptr<Gathered>>(module, "Gathered")
      .def_property_readonly("first_dims", &Gathered::rows_by_rank)
      .def_property_readonly("nbytes",
                             [](const Gathered& gathered) { return gathered.bytes().size(); })
      .def_property_readonly("memory", &MemoryOf)
      .def("__dlpack__", &ToDLPack)
      .def("__dlpack_device__",
           [](const Gathered& gathered) { return DLPackDevice(gathered.device()); });
}

}  // namespace hora::bindings
