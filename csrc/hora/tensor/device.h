#pragma once

#include <cstdint>
#include <string>

namespace hora {

enum class DeviceType : std::uint8_t { kCpu = 0, kCuda = 1 };

struct Device {
  DeviceType type = DeviceType::kCpu;
  std::int16_t index = 0;  // of a GPU on its host; 0 for the CPU

  std::string ToString() const;  // "cpu", "cuda:1"

  friend bool operator==(const Device&, const Device&) = default;
};

}  // namespace hora
