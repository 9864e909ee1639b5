#include "hora/kernels/reduce.h"

#include <cstring>

#include "hora/base/check.h"
#include "hora/kernels/cpu_features.h"
#include "hora/kernels/reduce_table.h"

namespace hora {
namespace {

const ReduceTable& ActiveTable() {
  switch (ActiveCpuLevel()) {
#if defined(__x86_64__)
    case CpuLevel::kAvx512:
      return Avx512ReduceTable();
    case CpuLevel::kAvx2:
      return Avx2ReduceTable();
#elif defined(__aarch64__)
    case CpuLevel::kNeon:
      return NeonReduceTable();
#endif
    default:
      return ScalarReduceTable();
  }
}

Combine CombineOf(ReduceOp op) {
  switch (op) {
    case ReduceOp::kAverage:
    case ReduceOp::kSum:
      return Combine::kSum;
    case ReduceOp::kMin:
      return Combine::kMin;
    case ReduceOp::kMax:
      return Combine::kMax;
    case ReduceOp::kProduct:
      return Combine::kProduct;
    case ReduceOp::kAdasum:
      break;
  }
  InvariantFailed("a reduction is one of those that reduce_op.h lists",
                  std::source_location::current());
}

bool IsFloat8(DType dtype) {
  return dtype >= DType::kFloat8E4M3FN && dtype <= DType::kFloat8E5M2FNUZ;
}

// What a complex number is a pair of; other types are themselves.
DType ComponentOf(DType dtype) {
  switch (dtype) {
    case DType::kComplex64:
      return DType::kFloat32;
    case DType::kComplex128:
      return DType::kFloat64;
    default:
      return dtype;
  }
}

void Copy(const std::byte* source, std::span<std::byte* const> destinations, std::size_t bytes) {
  for (std::byte* const destination : destinations) {
    if (destination != source) std::memcpy(destination, source, bytes);
  }
}

}  // namespace

void Reduce(const ReduceSpec& spec, std::span<const std::byte* const> sources,
            std::span<std::byte* const> destinations, std::size_t count) {
  const bool average = spec.op == ReduceOp::kAverage;
  Check(IsReducible(spec.dtype, spec.op), "a reduction has operands that the operation takes");
  Check(!sources.empty() && spec.divisor >= 1, "a reduction has operands to average");
  if (count == 0) return;

  const int divisor = average ? spec.divisor : 1;
  const double postscale = spec.postscale / divisor;
  // For integers also where both factors cancel out: the mean is truncated before it is scaled.
  const bool scaled = spec.prescale != 1.0 || spec.postscale != 1.0 || divisor != 1;
  if (sources.size() == 1 && (!scaled || spec.dtype == DType::kBool)) {
    return Copy(sources[0], destinations, count * SizeOf(spec.dtype));
  }
  const Combine combine = CombineOf(spec.op);
  const DType dtype = ComponentOf(spec.dtype);
  const ReduceCall call{.sources = sources.data(),
                        .source_count = sources.size(),
                        .destinations = destinations.data(),
                        .destination_count = destinations.size(),
                        .count = dtype == spec.dtype ? count : 2 * count,
                        .prescale = spec.prescale,
                        .postscale = postscale};
  if (IsFloat8(dtype)) return ReduceFloat8(dtype, combine, call);
  if (scaled && !IsFloatingPoint(dtype) && dtype != DType::kBool) {
    const IntegerScale scale{spec.prescale, spec.postscale, divisor};
    return ReduceScaledIntegers(dtype, combine, scale, call);
  }
  const ReduceRow& row = ActiveTable().by_dtype[static_cast<std::size_t>(dtype)];
  row.by_combine[static_cast<std::size_t>(combine)](call);
}

}  // namespace hora
