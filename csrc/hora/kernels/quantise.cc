#include "hora/kernels/quantise.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "hora/base/check.h"
#include "hora/kernels/quantise_block.h"
#include "hora/tensor/half.h"

namespace hora {
namespace {

struct Float32 {
  using Stored = float;
  static constexpr float kLargest = std::numeric_limits<float>::max();
  static float Widen(Stored value) { return value; }
  static Stored Narrow(float value) { return value; }
};

struct Float16 {
  using Stored = std::uint16_t;
  static constexpr float kLargest = 65504.0f;
  static float Widen(Stored bits) { return HalfToFloat(bits); }
  static Stored Narrow(float value) { return FloatToHalf(value); }
};

struct BFloat16 {
  using Stored = std::uint16_t;
  static constexpr float kLargest = 0x1.FEp127f;
  static float Widen(Stored bits) { return BFloat16ToFloat(bits); }
  static Stored Narrow(float value) { return FloatToBFloat16(value); }
};

template <class Element>
float Load(const std::byte* from, std::size_t i) {
  typename Element::Stored stored;
  std::memcpy(&stored, from + i * sizeof(stored), sizeof(stored));
  return Element::Widen(stored);
}

std::size_t PayloadBytes(const QuantisedFormat& format, std::size_t elements) {
  return format.bits == 8 ? elements : (elements + 1) / 2;
}

template <class Element, int bits>
void QuantiseBlock(const std::byte* from, std::byte* to, std::size_t elements) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < elements; ++i) {
    largest = std::max(largest, MagnitudeBits(Load<Element>(from, i)));
  }
  const std::uint16_t scale = ScaleOf(largest, bits);
  std::memcpy(to, &scale, sizeof(scale));
  to += sizeof(scale);
  const auto value = [&](std::size_t i) {
    return static_cast<unsigned>(QuantisedValue(Load<Element>(from, i), scale, bits));
  };
  if constexpr (bits == 8) {
    for (std::size_t i = 0; i < elements; ++i) to[i] = static_cast<std::byte>(value(i));
  } else {
    for (std::size_t i = 0; i < elements; i += 2) {
      const unsigned high = i + 1 < elements ? value(i + 1) : 0;
      to[i / 2] = static_cast<std::byte>((value(i) & 0xFu) | high << 4);
    }
  }
}

template <class Element, int bits>
void DequantiseBlock(const std::byte* from, std::byte* to, std::size_t elements) {
  std::uint16_t scale = 0;
  std::memcpy(&scale, from, sizeof(scale));
  from += sizeof(scale);
  for (std::size_t i = 0; i < elements; ++i) {
    const auto stored = std::to_integer<unsigned>(from[bits == 8 ? i : i / 2]);
    const unsigned top = bits == 8 || i % 2 == 1 ? stored : stored << 4;  // its sign in bit 7
    const int quantised = static_cast<std::int8_t>(top) >> (8 - bits);
    const auto result = Element::Narrow(DequantisedValue(quantised, scale, Element::kLargest));
    std::memcpy(to + i * sizeof(result), &result, sizeof(result));
  }
}

using BlockKernel = void (*)(const std::byte*, std::byte*, std::size_t);

struct Kernels {
  BlockKernel quantise;
  BlockKernel dequantise;
  std::size_t element_bytes;
};

template <class Element>
Kernels Of(int bits) {
  constexpr std::size_t kBytes = sizeof(typename Element::Stored);
  if (bits == 8) return {&QuantiseBlock<Element, 8>, &DequantiseBlock<Element, 8>, kBytes};
  return {&QuantiseBlock<Element, 4>, &DequantiseBlock<Element, 4>, kBytes};
}

Kernels KernelsOf(const QuantisedFormat& format, DType dtype) {
  Check((format.bits == 8 || format.bits == 4) && format.block > 0 && format.block % 2 == 0,
        "quantised blocks are of 8 or 4 bits and of whole bytes");
  switch (dtype) {
    case DType::kFloat32:
      return Of<Float32>(format.bits);
    case DType::kFloat16:
      return Of<Float16>(format.bits);
    case DType::kBFloat16:
      return Of<BFloat16>(format.bits);
    default:
      InvariantFailed("float32, float16 and bfloat16 are quantised",
                      std::source_location::current());
  }
}

}  // namespace

std::size_t QuantisedBytes(const QuantisedFormat& format, std::size_t elements) {
  const std::size_t whole = elements / format.block, rest = elements % format.block;
  const std::size_t last = rest == 0 ? 0 : sizeof(std::uint16_t) + PayloadBytes(format, rest);
  return whole * (sizeof(std::uint16_t) + PayloadBytes(format, format.block)) + last;
}

void Quantise(const QuantisedFormat& format, DType dtype, const std::byte* from, std::byte* to,
              std::size_t elements) {
  const Kernels kernels = KernelsOf(format, dtype);
  for (std::size_t at = 0; at < elements; at += format.block) {
    const std::size_t count = std::min(format.block, elements - at);
    kernels.quantise(from + at * kernels.element_bytes, to, count);
    to += QuantisedBytes(format, count);
  }
}

void Dequantise(const QuantisedFormat& format, DType dtype, const std::byte* from, std::byte* to,
                std::size_t elements) {
  const Kernels kernels = KernelsOf(format, dtype);
  for (std::size_t at = 0; at < elements; at += format.block) {
    const std::size_t count = std::min(format.block, elements - at);
    kernels.dequantise(from, to + at * kernels.element_bytes, count);
    from += QuantisedBytes(format, count);
  }
}

}  // namespace hora
