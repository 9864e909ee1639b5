// Batches of copies: a launch carries its table of pieces as its argument.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <span>

#include "hora/cuda/plugin/calls.h"
#include "hora/cuda/plugin/copy_block.h"
#include "hora/cuda/plugin/current_device.h"
#include "hora/tensor/dtype.h"

namespace hora {
namespace {

template <int capacity>
__global__ void __launch_bounds__(kThreadsPerBlock)
    CopyKernel(const __grid_constant__ PieceTable<capacity> table) {
  CopyPart(PartOf<ByteSplit>(table, blockIdx.x, threadIdx.x));
}

template <class Operation, int capacity>
__global__ void __launch_bounds__(kThreadsPerBlock)
    TransformKernel(const __grid_constant__ PieceTable<capacity> table,
                    const __grid_constant__ Operation operation) {
  TransformPart(operation, PartOf<ElementSplit<Operation>>(table, blockIdx.x, threadIdx.x));
}

struct Batch {
  std::span<const hora_cuda_piece> pieces;
  std::uint64_t units;  // of what kernels count, in an element
  cudaStream_t stream;
};

// As many launches as the pieces need. `arguments`: the kernel's, after the table.
template <class Split, int capacity, class... Arguments>
cudaError_t Launch(const Batch& batch, const void* kernel, const Arguments*... arguments) {
  PieceTable<capacity> table;
  const auto send = [&] {
    if (table.pieces == 0) return cudaSuccess;
    void* all[] = {&table, const_cast<Arguments*>(arguments)...};
    const cudaError_t code =
        cudaLaunchKernel(kernel, dim3(table.blocks), dim3(kThreadsPerBlock), all, 0, batch.stream);
    table.pieces = 0;
    table.blocks = 0;
    return code;
  };
  for (const hora_cuda_piece& piece : batch.pieces) {
    const std::uint64_t count = piece.elements * batch.units;
    if (count == 0) continue;
    const auto* const from = static_cast<const std::byte*>(piece.from);
    auto* const to = static_cast<std::byte*>(piece.to);
    const std::uint64_t blocks = BlocksOf(Split::Of(from, to, count), Split::kPerBlock);
    if (table.Add(from, to, count, blocks)) continue;
    if (const cudaError_t code = send(); code != cudaSuccess) return code;
    if (!table.Add(from, to, count, blocks)) return cudaErrorInvalidValue;  // beyond any memory
  }
  return send();
}

cudaError_t CopyBytes(const Batch& batch) {
  if (batch.pieces.size() <= kFewPieces) {
    return Launch<ByteSplit, kFewPieces>(batch,
                                         reinterpret_cast<const void*>(&CopyKernel<kFewPieces>));
  }
  return Launch<ByteSplit, kManyPieces>(batch,
                                        reinterpret_cast<const void*>(&CopyKernel<kManyPieces>));
}

template <class Operation>
cudaError_t Transform(const Batch& batch, const hora_cuda_element& element) {
  const Operation operation(element.scale, element.divisor);
  return Launch<ElementSplit<Operation>, kManyPieces>(
      batch, reinterpret_cast<const void*>(&TransformKernel<Operation, kManyPieces>), &operation);
}

// --- Which kernel --------------------------------------------------------------------------------

template <class From>
cudaError_t CastFrom(const Batch& batch, const hora_cuda_element& element) {
  const auto to = [&]<class To>(To) -> cudaError_t {
    if constexpr (std::is_same_v<From, To>) {
      return Transform<ScaleElement<From>>(batch, element);
    } else {
      return Transform<CastElement<From, To>>(batch, element);
    }
  };
  switch (static_cast<DType>(element.to)) {
    case DType::kFloat16:
      return to(Float16Element{});
    case DType::kBFloat16:
      return to(BFloat16Element{});
    case DType::kFloat32:
      return to(Float32Element{});
    case DType::kFloat64:
      return to(Float64Element{});
    default:
      return cudaErrorNotSupported;
  }
}

// Of one type that is no ordinary float.
cudaError_t Scale(const Batch& batch, const hora_cuda_element& element) {
  switch (static_cast<DType>(element.from)) {
    case DType::kUInt8:
      return Transform<ScaleInteger<std::uint8_t>>(batch, element);
    case DType::kInt8:
      return Transform<ScaleInteger<std::int8_t>>(batch, element);
    case DType::kUInt16:
      return Transform<ScaleInteger<std::uint16_t>>(batch, element);
    case DType::kInt16:
      return Transform<ScaleInteger<std::int16_t>>(batch, element);
    case DType::kUInt32:
      return Transform<ScaleInteger<std::uint32_t>>(batch, element);
    case DType::kInt32:
      return Transform<ScaleInteger<std::int32_t>>(batch, element);
    case DType::kUInt64:
      return Transform<ScaleInteger<std::uint64_t>>(batch, element);
    case DType::kInt64:
      return Transform<ScaleInteger<std::int64_t>>(batch, element);
    case DType::kComplex64:
      return Transform<ScaleElement<Float32Element>>({batch.pieces, 2, batch.stream}, element);
    case DType::kComplex128:
      return Transform<ScaleElement<Float64Element>>({batch.pieces, 2, batch.stream}, element);
    case DType::kFloat8E4M3FN:
      return Transform<ScaleElement<Float8Element<kE4M3FN>>>(batch, element);
    case DType::kFloat8E4M3FNUZ:
      return Transform<ScaleElement<Float8Element<kE4M3FNUZ>>>(batch, element);
    case DType::kFloat8E5M2:
      return Transform<ScaleElement<Float8Element<kE5M2>>>(batch, element);
    case DType::kFloat8E5M2FNUZ:
      return Transform<ScaleElement<Float8Element<kE5M2FNUZ>>>(batch, element);
    default:
      return cudaErrorNotSupported;
  }
}

cudaError_t Convert(const Batch& batch, const hora_cuda_element& element) {
  switch (static_cast<DType>(element.from)) {
    case DType::kFloat16:
      return CastFrom<Float16Element>(batch, element);
    case DType::kBFloat16:
      return CastFrom<BFloat16Element>(batch, element);
    case DType::kFloat32:
      return CastFrom<Float32Element>(batch, element);
    case DType::kFloat64:
      return CastFrom<Float64Element>(batch, element);
    default:
      return element.from == element.to ? Scale(batch, element) : cudaErrorNotSupported;
  }
}

// The plugin links nothing of ours, so it knows the sizes itself.
std::uint64_t BytesOf(DType dtype) {
  switch (dtype) {
    case DType::kUInt16:
    case DType::kInt16:
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kUInt32:
    case DType::kInt32:
    case DType::kFloat32:
    case DType::kComplex32:
      return 4;
    case DType::kUInt64:
    case DType::kInt64:
    case DType::kFloat64:
    case DType::kComplex64:
      return 8;
    case DType::kComplex128:
      return 16;
    default:
      return 1;
  }
}

}  // namespace

int CopyMany(const hora_cuda_piece* pieces, std::size_t count, const hora_cuda_element* element,
             void* stream, hora_cuda_error* error) {
  if (std::max(element->from, element->to) >= kDTypeCount || element->divisor < 1) {
    return Refuse("copies are of elements that hora knows, divided by 1 or more", error);
  }
  const OnDevice on = OnDevice::OfStream(stream);
  Batch batch{{pieces, count}, 1, static_cast<cudaStream_t>(stream)};
  const auto from = static_cast<DType>(element->from);
  const bool scaled = element->scale != 1.0 || element->divisor != 1;
  if (element->from == element->to && (!scaled || from == DType::kBool)) {
    batch.units = BytesOf(from);
    return Answer(CopyBytes(batch), "copy pieces", error);
  }
  return Answer(Convert(batch, *element), "copy pieces with a cast or a scale", error);
}

}  // namespace hora
