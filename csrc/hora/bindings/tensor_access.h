// A Python tensor as a TensorView, without knowing PyTorch.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "hora/tensor/tensor_view.h"

namespace hora::bindings {

// Borrows: valid while `tensor` is referenced and not resized. Raises UsageError for what the core
// cannot take: not dense and row-major, a sparse, quantised or meta tensor, a dtype it does not
// know. Reads through DLPack's C exchange API (PyTorch ≥ 2.11), else through attributes of
// torch.Tensor.
TensorView ReadTensor(pybind11::handle tensor);

// Which classes, themselves and not what is derived from them, may have plain tensors.
void SetPlainTypes(pybind11::handle types);

// A tensor that the engine can read and write as it is, with nothing to be prepared: of a plain
// type, of numbers, dense and row-major on the CPU, not a view that negates. Null for any other.
std::optional<TensorView> ReadPlainTensor(pybind11::handle tensor);

}  // namespace hora::bindings
