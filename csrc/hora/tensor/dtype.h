// Element types that hora moves; the arithmetic subset that it reduces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hora {

// Values travel on the wire: append, never renumber.
enum class DType : std::uint8_t {
  kUInt8 = 0,
  kInt8,
  kUInt16,
  kInt16,
  kUInt32,
  kInt32,
  kUInt64,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
  kBool,
  kComplex64,
  kComplex128,
  kFloat8E4M3FN,
  kFloat8E4M3FNUZ,
  kFloat8E5M2,
  kFloat8E5M2FNUZ,
  kFloat8E8M0FNU,
  kComplex32,
};
inline constexpr int kDTypeCount = 21;

std::size_t SizeOf(DType dtype);         // bytes per element
std::string_view ToString(DType dtype);  // PyTorch's spelling: "float32", "bfloat16", "int64"
bool IsFloatingPoint(DType dtype);       // fp16, bf16, fp32, fp64
bool IsReducible(DType dtype);           // ordinary numbers and bool; reduce_op.h asks by operation

}  // namespace hora
