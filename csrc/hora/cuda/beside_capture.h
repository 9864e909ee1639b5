// Calls of libraries that have nothing to do with what others capture into graphs.
#pragma once

#include "hora/cuda/device_runtime.h"

namespace hora {

// While it lives, this thread may allocate and ask for events through any library, whoever captures
// a graph meanwhile: without it the driver refuses, and the capture fails as well. The runtime's
// own calls need none. Of one thread, on its stack; nothing blocks or fails. `runtime` outlives it.
class BesideCapture {
 public:
  explicit BesideCapture(DeviceRuntime& runtime)
      : runtime_(runtime), before_(runtime.ExchangeCaptureMode(CaptureMode::kRelaxed)) {}
  ~BesideCapture() { runtime_.ExchangeCaptureMode(before_); }
  BesideCapture(const BesideCapture&) = delete;
  BesideCapture& operator=(const BesideCapture&) = delete;

 private:
  DeviceRuntime& runtime_;
  const CaptureMode before_;
};

}  // namespace hora
