#include "hora/tensor/device.h"

namespace hora {

std::string Device::ToString() const {
  return type == DeviceType::kCpu ? "cpu" : "cuda:" + std::to_string(index);
}

}  // namespace hora
