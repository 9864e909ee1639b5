// The device that libraries find current to the calling thread.
#pragma once

#include "hora/base/status.h"
#include "hora/cuda/device_runtime.h"

namespace hora {

// While it lives, `device` is the calling thread's current one, for libraries that look at it
// (NCCL); afterwards the thread has the one that it had. Asks before it changes anything, which
// costs less than to change. A thread that has used no device keeps this one: to go back, there
// would have to be one. Of one thread, on its stack; nothing blocks. `runtime` outlives it.
class CurrentDevice {
 public:
  CurrentDevice(DeviceRuntime& runtime, int device);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  const Status& status() const { return status_; }  // not OK: it is not current

 private:
  DeviceRuntime& runtime_;
  int before_ = -1;  // to go back to; -1: nothing to do
  Status status_;
};

}  // namespace hora
