// What hora.torch tells of PyTorch's streams and memory on GPUs.
#pragma once

#include <pybind11/pybind11.h>

#include <cstddef>
#include <memory>

#include "hora/bindings/tensor_access.h"
#include "hora/cuda/device_runtime.h"
#include "hora/engine/rank_device.h"

namespace hora::bindings {

// Functions that live as long as the process; empty until hora.torch is imported. Guarded by the
// GIL.
struct DeviceCalls {
  pybind11::object current_stream;  // (device) -> the native stream, as a number
  pybind11::object allocate;        // (device, bytes, stream) -> a tensor of uint8 of that stream
  pybind11::object record;          // (tensor): the current stream uses it as well
  pybind11::object empty_cache;     // (device): gives unused memory back; may be None
};

DeviceCalls& CallsOnDevice();

// The stream of the GPU that the calling thread's PyTorch works on: `query` tells, or if that is
// null, hora.torch. Raises. GIL held.
DeviceStream CurrentStream(StreamQuery query, int device);

// Results are tensors of PyTorch, whose allocator then knows of them. Called on the engine's
// threads, which hold no lock; each takes the GIL for some microseconds. kResource: why there is no
// memory.
RankDevice::Allocate ResultAllocator();

// PyTorch's allocator keeps what was freed; this makes it give that back. Any thread without locks;
// takes the GIL, may wait for the device, and logs why it could not.
void EmptyCache(int device);

// The tensor that ResultAllocator made it of; null: it is of another origin. GIL held.
pybind11::handle TensorOf(const std::shared_ptr<std::byte>& memory);

}  // namespace hora::bindings
