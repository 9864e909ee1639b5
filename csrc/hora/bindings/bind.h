// One register function per concept.
#pragma once

#include <pybind11/pybind11.h>

namespace hora::bindings {

void BindConstants(pybind11::module_& module);
void BindDevice(pybind11::module_& module);
void BindGradients(pybind11::module_& module);
void BindHandle(pybind11::module_& module);
void BindEngine(pybind11::module_& module);
void BindProcessSets(pybind11::module_& module);
void BindNetwork(pybind11::module_& module);
void BindObservation(pybind11::module_& module);
void BindOperations(pybind11::module_& module);
void BindSymmetricMemory(pybind11::module_& module);
void BindTorchOps(pybind11::module_& module);

}  // namespace hora::bindings
