// Floats as small integers with a scale per block: what compressed gradients are made of.
#pragma once

#include <cstddef>

#include "hora/tensor/dtype.h"

namespace hora {

// Blocks of so many elements, each stored as its scale s (bfloat16, 2 bytes) and then its integers
// q of `bits` each, 4-bit ones two per byte, the first in the low half. The last block is as short
// as its elements need. Little-endian, without gaps, at any address.
struct QuantisedFormat {
  int bits;
  std::size_t block;
};
inline constexpr QuantisedFormat kInt8Blocks{8, 256};
inline constexpr QuantisedFormat kInt4Blocks{4, 64};

// s = max|v| / m with m = 127 or 7, rounded to bfloat16; q = v / s to nearest even, within ±m; v is
// q · s again, at most s / 2 away from what it was. Blocks whose largest value is below 2^-100 are
// zeros with scale 0; a block with an infinity or a NaN has scale NaN, and becomes NaNs. Nothing
// becomes an infinity: q · s beyond the type's largest number is that number.
// float16, bfloat16 and float32 only, any alignment; bits do not depend on the CPU, a GPU's are the
// same.
std::size_t QuantisedBytes(const QuantisedFormat& format, std::size_t elements);
void Quantise(const QuantisedFormat& format, DType dtype, const std::byte* from, std::byte* to,
              std::size_t elements);
void Dequantise(const QuantisedFormat& format, DType dtype, const std::byte* from, std::byte* to,
                std::size_t elements);

}  // namespace hora
