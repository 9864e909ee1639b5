// `_core.Handle`: an operation and its result, as a type of CPython's own. An object of pybind11
// costs as much as a small allreduce takes.
#pragma once

#include <pybind11/pybind11.h>

#include "hora/bindings/bound_handle.h"

namespace hora::bindings {

// Makes the type and adds it to the module. Python may derive classes from it, without fields.
void AddHandleType(pybind11::module_& module);

// A handle of class `type` (null: `_core.Handle` itself), whose wait() returns `result`. Raises
// TypeError when the class is no kind of handle.
pybind11::object MakeHandle(PyTypeObject* type, BoundHandle&& bound, pybind11::object result);

}  // namespace hora::bindings
