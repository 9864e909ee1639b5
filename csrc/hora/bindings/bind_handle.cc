#include <pybind11/stl.h>

#include <memory>

#include "hora/bindings/bind.h"
#include "hora/bindings/dlpack_abi.h"
#include "hora/bindings/dlpack_lease.h"
#include "hora/bindings/handle_object.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

py::object ToDLPack(const std::shared_ptr<Gathered>& gathered, const py::kwargs&) {
  return LeaseBytes(gathered, gathered->bytes());
}

}  // namespace

void BindHandle(py::module_& module) {
  AddHandleType(module);
  py::class_<Gathered, std::shared_ptr<Gathered>>(module, "Gathered")
      .def_property_readonly("first_dims", &Gathered::rows_by_rank)
      .def_property_readonly("nbytes",
                             [](const Gathered& gathered) { return gathered.bytes().size(); })
      .def("__dlpack__", &ToDLPack)
      .def("__dlpack_device__", [](const Gathered&) { return py::make_tuple(dlpack::kCpu, 0); });
}

}  // namespace hora::bindings
