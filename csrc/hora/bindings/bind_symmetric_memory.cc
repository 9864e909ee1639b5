#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <string>

#include "hora/bindings/bind.h"
#include "hora/bindings/dlpack_lease.h"
#include "hora/bindings/instance.h"
#include "hora/bindings/raise.h"

namespace hora::bindings {
namespace {

namespace py = pybind11;

std::shared_ptr<SymmetricMemory> Allocate(int process_set, std::size_t bytes,
                                          const std::string& what) {
  const std::shared_ptr<Engine> engine = CurrentEngine();
  Result<std::shared_ptr<SymmetricMemory>> memory = [&] {
    const py::gil_scoped_release release;
    return engine->AllocateSymmetric(process_set, bytes, what);
  }();
  if (!memory) Raise(memory.error());
  return std::move(*memory);
}

}  // namespace

void BindSymmetricMemory(py::module_& module) {
  py::class_<SymmetricMemory, std::shared_ptr<SymmetricMemory>>(module, "SymmetricMemory")
      .def_property_readonly("nbytes",
                             [](const SymmetricMemory& memory) { return memory.slice().size(); })
      .def("__dlpack__", [](const std::shared_ptr<SymmetricMemory>& memory,
                            const py::kwargs&) { return LeaseBytes(memory, memory->slice()); })
      .def("__dlpack_device__", [](const SymmetricMemory&) { return DLPackDevice({}); });
  module.def("symmetric_memory", &Allocate, py::arg("process_set"), py::arg("nbytes"),
             py::arg("what"));
}

}  // namespace hora::bindings
