// Memory of the core as a tensor of Python, without a copy.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>
#include <span>

namespace hora::bindings {

// What __dlpack__ returns for `bytes`: a one-dimensional uint8 tensor on the CPU that keeps `owner`
// alive, and lets go of it on whatever thread drops the last tensor over it.
pybind11::object LeaseBytes(std::shared_ptr<const void> owner, std::span<std::byte> bytes);

}  // namespace hora::bindings
