// A Python tensor as a TensorView, without knowing PyTorch.
#pragma once

#include <pybind11/pybind11.h>

#include "hora/tensor/tensor_view.h"

namespace hora::bindings {

// Borrows: valid while `tensor` is referenced and not resized. Raises UsageError for what the core
// cannot take: not dense and row-major, a sparse, quantised or meta tensor, a dtype it does not
// know. Reads through DLPack's C exchange API (PyTorch ≥ 2.11), else through attributes of
// torch.Tensor.
TensorView ReadTensor(pybind11::handle tensor);

}  // namespace hora::bindings
