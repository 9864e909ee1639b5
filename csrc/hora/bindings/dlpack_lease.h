// Memory of the core as a tensor of Python, without a copy.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>
#include <span>

#include "hora/tensor/device.h"

namespace hora::bindings {

// What __dlpack__ returns for `bytes` of `device`: a one-dimensional uint8 tensor that keeps
// `owner` alive, and lets go of it on whatever thread drops the last tensor over it.
pybind11::object LeaseBytes(std::shared_ptr<const void> owner, std::span<std::byte> bytes,
                            const Device& device = {});
// What __dlpack_device__ returns.
pybind11::tuple DLPackDevice(const Device& device);

}  // namespace hora::bindings
