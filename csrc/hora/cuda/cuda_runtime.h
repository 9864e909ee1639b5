// CUDA, through a plugin that is opened when it is wanted.
#pragma once

#include <memory>
#include <string>

#include "hora/base/result.h"
#include "hora/cuda/cuda_abi.h"
#include "hora/cuda/device_runtime.h"

namespace hora {

// The runtime of hora_cuda.so in `directory`; the plugin stays open for the life of the process.
// kResource says what is missing and what to do: the plugin (built without nvcc), a driver, a
// device.
Result<std::shared_ptr<DeviceRuntime>> OpenCuda(const std::string& directory);

// The runtime that is made of `functions`, which live as long as the process; null: there are none.
// `where`: the file that they are from, for messages.
Result<std::shared_ptr<DeviceRuntime>> CudaRuntimeOf(const hora_cuda* functions,
                                                     const std::string& where);

}  // namespace hora
