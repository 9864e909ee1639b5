#pragma once

#include <cstddef>
#include <span>

#include "hora/tensor/device.h"
#include "hora/tensor/dtype.h"
#include "hora/tensor/shape.h"

namespace hora {

// A dense row-major tensor owned by somebody else, who keeps it alive and unmoved while the view is
// used.
struct TensorView {
  std::byte* data = nullptr;
  DType dtype = DType::kUInt8;
  Device device;
  Shape shape;

  std::size_t nbytes() const {
    return static_cast<std::size_t>(shape.num_elements()) * SizeOf(dtype);
  }
  std::span<std::byte> bytes() const { return {data, nbytes()}; }
};

}  // namespace hora
