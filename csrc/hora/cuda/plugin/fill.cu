#include <cuda_runtime_api.h>

#include <bit>
#include <cstring>

#include "hora/cuda/plugin/calls.h"
#include "hora/cuda/plugin/current_device.h"
#include "hora/cuda/plugin/fill_block.h"

namespace hora {
namespace {

__global__ void __launch_bounds__(kThreadsPerBlock)
    FillKernel(std::byte* to, std::uint64_t bytes, const __grid_constant__ FillPattern pattern) {
  FillPart(to, bytes, pattern, blockIdx.x, threadIdx.x);
}

}  // namespace

int Fill(void* to, const void* element, std::size_t element_bytes, std::uint64_t count,
         void* stream, hora_cuda_error* error) {
  if (!std::has_single_bit(element_bytes) || element_bytes > kVectorBytes) {
    return Refuse("memory is filled with elements of 1, 2, 4, 8 or 16 bytes", error);
  }
  const std::uint64_t bytes = count * element_bytes;
  if (bytes == 0) return 0;
  auto* const memory = static_cast<std::byte*>(to);
  const FillPattern pattern = PatternOf(memory, element, element_bytes);
  const OnDevice on = OnDevice::OfStream(stream);
  void* arguments[] = {const_cast<std::byte**>(&memory), const_cast<std::uint64_t*>(&bytes),
                       const_cast<FillPattern*>(&pattern)};
  const cudaError_t code =
      cudaLaunchKernel(reinterpret_cast<const void*>(&FillKernel),
                       dim3(static_cast<unsigned>(FillBlocks(memory, bytes))),
                       dim3(kThreadsPerBlock), arguments, 0, static_cast<cudaStream_t>(stream));
  return Answer(code, "fill memory", error);
}

}  // namespace hora
