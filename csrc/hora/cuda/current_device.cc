#include "hora/cuda/current_device.h"

namespace hora {

CurrentDevice::CurrentDevice(DeviceRuntime& runtime, int device) : runtime_(runtime) {
  const Result<int> now = runtime.Current();
  if (!now) {
    status_ = now.error();
    return;
  }
  if (*now == device) return;
  status_ = runtime.MakeCurrent(device);
  if (status_.ok()) before_ = *now;
}

CurrentDevice::~CurrentDevice() {
  // What fails here fails again where the thread uses its device.
  if (before_ >= 0) static_cast<void>(runtime_.MakeCurrent(before_));
}

}  // namespace hora
