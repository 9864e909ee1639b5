// What the table of hora_cuda.so is made of, see cuda_abi.h for each.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hora/cuda/cuda_abi.h"

namespace hora {

// Says in `error` what was tried on which device and what CUDA answered (a cudaError_t; 0 is
// success). Returns `code`.
int Answer(int code, const char* what, hora_cuda_error* error);
// A mistake of the caller.
int Refuse(const char* why, hora_cuda_error* error);

int CopyMany(const hora_cuda_piece* pieces, std::size_t count, const hora_cuda_element* element,
             void* stream, hora_cuda_error* error);
int Fill(void* to, const void* element, std::size_t element_bytes, std::uint64_t count,
         void* stream, hora_cuda_error* error);
int Quantise(const void* from, void* to, std::uint64_t elements, const hora_cuda_blocks* blocks,
             void* stream, hora_cuda_error* error);
int Dequantise(const void* from, void* to, std::uint64_t elements, const hora_cuda_blocks* blocks,
               void* stream, hora_cuda_error* error);

}  // namespace hora
