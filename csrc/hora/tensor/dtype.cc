#include "hora/tensor/dtype.h"

#include <array>

#include "hora/base/check.h"

namespace hora {
namespace {

struct Traits {
  std::string_view name;
  std::size_t bytes = 0;
};

// By value of DType.
constexpr std::array<Traits, kDTypeCount> kTraits = {{
    {"uint8", 1},
    {"int8", 1},
    {"uint16", 2},
    {"int16", 2},
    {"uint32", 4},
    {"int32", 4},
    {"uint64", 8},
    {"int64", 8},
    {"float16", 2},
    {"bfloat16", 2},
    {"float32", 4},
    {"float64", 8},
    {"bool", 1},
    {"complex64", 8},
    {"complex128", 16},
    {"float8_e4m3fn", 1},
    {"float8_e4m3fnuz", 1},
    {"float8_e5m2", 1},
    {"float8_e5m2fnuz", 1},
    {"float8_e8m0fnu", 1},
    {"complex32", 4},
}};

const Traits& TraitsOf(DType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  Check(index < kTraits.size(), "a dtype is one of those that dtype.h lists");
  return kTraits[index];
}

}  // namespace

std::size_t SizeOf(DType dtype) { return TraitsOf(dtype).bytes; }

std::string_view ToString(DType dtype) { return TraitsOf(dtype).name; }

bool IsFloatingPoint(DType dtype) { return dtype >= DType::kFloat16 && dtype <= DType::kFloat64; }

bool IsReducible(DType dtype) { return dtype <= DType::kBool; }

}  // namespace hora
