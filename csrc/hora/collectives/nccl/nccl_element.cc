#include "hora/collectives/nccl/nccl_element.h"

#include <cstring>
#include <limits>

#include "hora/base/check.h"

namespace hora {
namespace {

constexpr int kHasFloat8 = 22400;
constexpr int kComputesFloat8 = 9;  // compute capability

std::optional<nccl::DataType> TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return nccl::DataType::kInt8;
    case DType::kUInt8:
    case DType::kBool:
      return nccl::DataType::kUint8;
    case DType::kInt32:
      return nccl::DataType::kInt32;
    case DType::kUInt32:
      return nccl::DataType::kUint32;
    case DType::kInt64:
      return nccl::DataType::kInt64;
    case DType::kUInt64:
      return nccl::DataType::kUint64;
    case DType::kFloat16:
      return nccl::DataType::kFloat16;
    case DType::kBFloat16:
      return nccl::DataType::kBfloat16;
    case DType::kFloat32:
    case DType::kComplex64:
      return nccl::DataType::kFloat32;
    case DType::kFloat64:
    case DType::kComplex128:
      return nccl::DataType::kFloat64;
    case DType::kFloat8E4M3FN:
      return nccl::DataType::kFloat8e4m3;
    case DType::kFloat8E5M2:
      return nccl::DataType::kFloat8e5m2;
    default:
      return std::nullopt;
  }
}

// Of 0 and 1, "or" is the larger and "and" the smaller.
nccl::RedOp OpOf(DType dtype, ReduceOp op) {
  const bool is_bool = dtype == DType::kBool;
  switch (op) {
    case ReduceOp::kMin:
      return nccl::RedOp::kMin;
    case ReduceOp::kMax:
      return nccl::RedOp::kMax;
    case ReduceOp::kProduct:
      return is_bool ? nccl::RedOp::kMin : nccl::RedOp::kProd;
    default:
      return is_bool ? nccl::RedOp::kMax : nccl::RedOp::kSum;
  }
}

// The bits of 1, of the largest and of the lowest value (or infinities).
struct Values {
  std::uint64_t one, top, bottom;
};

template <class T>
Values ValuesOf() {
  using Limits = std::numeric_limits<T>;
  const auto bits = [](T value) {
    std::uint64_t all = 0;
    std::memcpy(&all, &value, sizeof(value));
    return all;
  };
  if constexpr (Limits::has_infinity) {
    return {bits(T{1}), bits(Limits::infinity()), bits(-Limits::infinity())};
  } else {
    return {bits(T{1}), bits(Limits::max()), bits(Limits::lowest())};
  }
}

Values ValuesOf(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return ValuesOf<std::int8_t>();
    case DType::kUInt8:
      return ValuesOf<std::uint8_t>();
    case DType::kInt32:
      return ValuesOf<std::int32_t>();
    case DType::kUInt32:
      return ValuesOf<std::uint32_t>();
    case DType::kInt64:
      return ValuesOf<std::int64_t>();
    case DType::kUInt64:
      return ValuesOf<std::uint64_t>();
    case DType::kFloat16:
      return {0x3C00, 0x7C00, 0xFC00};
    case DType::kBFloat16:
      return {0x3F80, 0x7F80, 0xFF80};
    case DType::kFloat32:
      return ValuesOf<float>();
    case DType::kFloat64:
      return ValuesOf<double>();
    case DType::kBool:
      return {1, 1, 0};
    default:
      return {};  // of these there are sums only
  }
}

}  // namespace

std::optional<NcclReduction> NcclReductionOf(DType dtype, ReduceOp op, int version,
                                             int compute_major) {
  const std::optional<nccl::DataType> type = TypeOf(dtype);
  if (!type || !IsReducible(dtype, op)) return std::nullopt;
  const bool adds = op == ReduceOp::kSum || op == ReduceOp::kAverage;
  if (!adds && op != ReduceOp::kMin && op != ReduceOp::kMax && op != ReduceOp::kProduct) {
    return std::nullopt;
  }
  // NCCL rounds 8-bit floats at every step: tolerable for sums, which hora would round once.
  const bool is_float8 =
      *type == nccl::DataType::kFloat8e4m3 || *type == nccl::DataType::kFloat8e5m2;
  if (is_float8 && (!adds || version < kHasFloat8 || compute_major < kComputesFloat8)) {
    return std::nullopt;
  }
  return NcclReduction{*type, OpOf(dtype, op), SizeOf(dtype) / SizeOf(ComponentOf(dtype))};
}

DType ComponentOf(DType dtype) {
  if (dtype == DType::kComplex64) return DType::kFloat32;
  return dtype == DType::kComplex128 ? DType::kFloat64 : dtype;
}

NeutralElement::NeutralElement(DType dtype, ReduceOp op) : size_(SizeOf(ComponentOf(dtype))) {
  Check(size_ <= bytes_.size(), "a number of a reduction has at most 8 bytes");
  const Values values = ValuesOf(ComponentOf(dtype));
  std::uint64_t bits = 0;
  if (op == ReduceOp::kProduct) bits = values.one;
  if (op == ReduceOp::kMin) bits = values.top;
  if (op == ReduceOp::kMax) bits = values.bottom;
  std::memcpy(bytes_.data(), &bits, size_);  // little-endian, as all that has a GPU
}

}  // namespace hora
