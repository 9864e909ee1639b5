// kernels/quantise.h on a GPU, with the same bits.
#include <cuda_runtime_api.h>

#include <cstring>
#include <limits>

#include "hora/cuda/plugin/calls.h"
#include "hora/cuda/plugin/copy_block.h"
#include "hora/cuda/plugin/current_device.h"
#include "hora/cuda/plugin/quantise_lane.h"
#include "hora/kernels/quantise_block.h"
#include "hora/tensor/dtype.h"

namespace hora {
namespace {

template <class Element>
constexpr float kLargest = std::numeric_limits<float>::max();
template <>
constexpr float kLargest<Float16Element> = 65504.0f;
template <>
constexpr float kLargest<BFloat16Element> = 0x1.FEp127f;

constexpr int kMost = static_cast<int>(kElementsPerLane);

// Loops over a lane's elements have a constant count, so that they stay in registers.
template <class Stored>
struct LaneElements {
  Stored at[kMost];
};

template <class Stored>
__device__ LaneElements<Stored> LoadLane(const std::byte* from, std::uint32_t count) {
  LaneElements<Stored> elements{};
  constexpr int kWords = sizeof(elements) / sizeof(Word16);
  if (count == kElementsPerLane && reinterpret_cast<std::uintptr_t>(from) % kVectorBytes == 0) {
    Word16 words[kWords];
    HORA_UNROLL
    for (int i = 0; i < kWords; ++i) words[i] = reinterpret_cast<const Word16*>(from)[i];
    std::memcpy(&elements, words, sizeof(elements));
  } else {
    HORA_UNROLL
    for (int i = 0; i < kMost; ++i) {
      if (i < static_cast<int>(count)) {
        elements.at[i] = LoadElement<Stored>(from + i * sizeof(Stored));
      }
    }
  }
  return elements;
}

template <class Stored>
__device__ void StoreLane(const LaneElements<Stored>& elements, std::byte* to,
                          std::uint32_t count) {
  constexpr int kWords = sizeof(elements) / sizeof(Word16);
  if (count == kElementsPerLane && reinterpret_cast<std::uintptr_t>(to) % kVectorBytes == 0) {
    Word16 words[kWords];
    std::memcpy(words, &elements, sizeof(elements));
    HORA_UNROLL
    for (int i = 0; i < kWords; ++i) reinterpret_cast<Word16*>(to)[i] = words[i];
  } else {
    HORA_UNROLL
    for (int i = 0; i < kMost; ++i) {
      if (i < static_cast<int>(count)) StoreElement(elements.at[i], to + i * sizeof(Stored));
    }
  }
}

// A lane's integers, the first in the lowest bits, as its bytes are in memory. Scales of 2 bytes
// stand between the blocks, so 2 bytes at once is what there is.
template <int bits>
__device__ void StoreIntegers(std::uint64_t integers, std::byte* to, std::uint32_t count) {
  constexpr int kBytes = kMost * bits / 8;
  const bool whole = count == kElementsPerLane;
  if (whole && reinterpret_cast<std::uintptr_t>(to) % 2 == 0) {
    HORA_UNROLL
    for (int i = 0; i < kBytes / 2; ++i) {
      reinterpret_cast<std::uint16_t*>(to)[i] = static_cast<std::uint16_t>(integers >> 16 * i);
    }
  } else {
    const int stored = (static_cast<int>(count) * bits + 7) / 8;
    HORA_UNROLL
    for (int i = 0; i < kBytes; ++i) {
      if (i < stored) to[i] = static_cast<std::byte>(integers >> 8 * i);
    }
  }
}

template <int bits>
__device__ std::uint64_t LoadIntegers(const std::byte* from, std::uint32_t count) {
  constexpr int kBytes = kMost * bits / 8;
  std::uint64_t integers = 0;
  if (count == kElementsPerLane && reinterpret_cast<std::uintptr_t>(from) % 2 == 0) {
    HORA_UNROLL
    for (int i = 0; i < kBytes / 2; ++i) {
      const auto word = reinterpret_cast<const std::uint16_t*>(from)[i];
      integers |= static_cast<std::uint64_t>(word) << 16 * i;
    }
  } else {
    const int stored = (static_cast<int>(count) * bits + 7) / 8;
    HORA_UNROLL
    for (int i = 0; i < kBytes; ++i) {
      if (i < stored) integers |= static_cast<std::uint64_t>(from[i]) << 8 * i;
    }
  }
  return integers;
}

// Every lane of the warp comes here: those behind the end have nothing to bring.
template <class Element, int bits, std::uint32_t block>
__global__ void __launch_bounds__(kThreadsPerBlock)
    QuantiseKernel(const std::byte* from, std::byte* to, std::uint64_t elements) {
  using Lanes = QuantiseLanes<bits, block>;
  using Stored = typename Element::Stored;
  const QuantiseLane lane = Lanes::At(elements, blockIdx.x, threadIdx.x);
  const LaneElements<Stored> stored =
      LoadLane<Stored>(from + lane.first * sizeof(Stored), lane.count);
  float values[kMost];
  std::uint32_t largest = 0;
  HORA_UNROLL
  for (int i = 0; i < kMost; ++i) {
    values[i] = Element::Widen(stored.at[i]);
    largest = max(largest, MagnitudeBits(values[i]));
  }
  HORA_UNROLL
  for (std::uint32_t distance = Lanes::kLanes / 2; distance > 0; distance /= 2) {
    largest = max(largest, __shfl_xor_sync(0xFFFFFFFFu, largest, static_cast<int>(distance)));
  }
  const std::uint16_t scale = ScaleOf(largest, bits);
  if (lane.leads) StoreElement(scale, to + lane.scale);
  std::uint64_t integers = 0;
  HORA_UNROLL
  for (int i = 0; i < kMost; ++i) {
    constexpr std::uint64_t kMask = (1u << bits) - 1;
    const int value = QuantisedValue(values[i], scale, bits);
    integers |= (static_cast<std::uint64_t>(value) & kMask) << bits * i;
  }
  StoreIntegers<bits>(integers, to + lane.payload, lane.count);
}

template <class Element, int bits, std::uint32_t block>
__global__ void __launch_bounds__(kThreadsPerBlock)
    DequantiseKernel(const std::byte* from, std::byte* to, std::uint64_t elements) {
  using Stored = typename Element::Stored;
  const QuantiseLane lane = QuantiseLanes<bits, block>::At(elements, blockIdx.x, threadIdx.x);
  if (lane.count == 0) return;
  const auto scale = LoadElement<std::uint16_t>(from + lane.scale);
  const std::uint64_t integers = LoadIntegers<bits>(from + lane.payload, lane.count);
  LaneElements<Stored> results;
  HORA_UNROLL
  for (int i = 0; i < kMost; ++i) {
    const auto top = static_cast<std::int8_t>(integers >> bits * i << (8 - bits));
    const float value = DequantisedValue(top >> (8 - bits), scale, kLargest<Element>);
    results.at[i] = Element::Narrow(value);
  }
  StoreLane(results, to + lane.first * sizeof(Stored), lane.count);
}

struct Call {
  const void* from;
  void* to;
  std::uint64_t elements;
  hora_cuda_blocks blocks;
  void* stream;
};

template <class Element, int bits, std::uint32_t block>
cudaError_t Launch(Call call, bool back) {
  const std::uint64_t grid = QuantiseLanes<bits, block>::Blocks(call.elements);
  if (grid == 0) return cudaSuccess;
  if (grid > 0x7FFFFFFF) return cudaErrorInvalidValue;  // beyond any memory
  const void* const kernel =
      back ? reinterpret_cast<const void*>(&DequantiseKernel<Element, bits, block>)
           : reinterpret_cast<const void*>(&QuantiseKernel<Element, bits, block>);
  void* arguments[] = {&call.from, &call.to, &call.elements};
  return cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(grid)), dim3(kThreadsPerBlock),
                          arguments, 0, static_cast<cudaStream_t>(call.stream));
}

template <int bits, std::uint32_t block>
cudaError_t LaunchOf(const Call& call, bool back) {
  switch (static_cast<DType>(call.blocks.dtype)) {
    case DType::kFloat16:
      return Launch<Float16Element, bits, block>(call, back);
    case DType::kBFloat16:
      return Launch<BFloat16Element, bits, block>(call, back);
    case DType::kFloat32:
      return Launch<Float32Element, bits, block>(call, back);
    default:
      return cudaErrorNotSupported;
  }
}

int Run(const Call& call, bool back, const char* what, hora_cuda_error* error) {
  const OnDevice on = OnDevice::OfStream(call.stream);
  if (call.blocks.bits == 8 && call.blocks.block == 256) {
    return Answer(LaunchOf<8, 256>(call, back), what, error);
  }
  if (call.blocks.bits == 4 && call.blocks.block == 64) {
    return Answer(LaunchOf<4, 64>(call, back), what, error);
  }
  return Refuse("there are blocks of 256 elements of 8 bits, and of 64 of 4 bits", error);
}

}  // namespace

int Quantise(const void* from, void* to, std::uint64_t elements, const hora_cuda_blocks* blocks,
             void* stream, hora_cuda_error* error) {
  return Run({from, to, elements, *blocks, stream}, false, "quantise", error);
}

int Dequantise(const void* from, void* to, std::uint64_t elements, const hora_cuda_blocks* blocks,
               void* stream, hora_cuda_error* error) {
  return Run({from, to, elements, *blocks, stream}, true, "dequantise", error);
}

}  // namespace hora
