// A Python tensor as a TensorView, without knowing PyTorch.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
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
// type, of numbers, dense and row-major on the CPU or a GPU, not a view that negates. Null for any
// other.
std::optional<TensorView> ReadPlainTensor(pybind11::handle tensor);

// What tells which stream of a GPU the calling thread works on: DLPack's current_work_stream of the
// tensor's class; null where the class has none (before PyTorch 2.11).
using StreamQuery = int (*)(std::int32_t device_type, std::int32_t device_index, void** stream);
StreamQuery StreamQueryOf(pybind11::handle tensor);
StreamQuery PlainStreamQuery();  // of the first plain type

}  // namespace hora::bindings
