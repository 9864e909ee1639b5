// Reduce() once more, one element at a time and straight from its contract, to compare with.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "hora/kernels/reduce.h"
#include "hora/tensor/half.h"
#include "kernels/reference_float8.h"

namespace hora {

// Out of line, so that no compiler contracts a product and a sum into one rounding.
template <class T>
[[gnu::noinline]] T Multiply(T a, T b) {
  return a * b;
}
template <class T>
[[gnu::noinline]] T Add(T a, T b) {
  return a + b;
}

template <class T>
T CombineFloats(ReduceOp op, T a, T b) {
  switch (op) {
    case ReduceOp::kAverage:
    case ReduceOp::kSum:
      return Add(a, b);
    case ReduceOp::kProduct:
      return Multiply(a, b);
    case ReduceOp::kMin:
      return std::isnan(a) || a < b ? a : b;
    case ReduceOp::kMax:
      return std::isnan(a) || a > b ? a : b;
    case ReduceOp::kAdasum:
      break;
  }
  return a;
}

template <class T>
T ReduceFloats(const ReduceSpec& spec, const std::vector<T>& operands) {
  const int divisor = spec.op == ReduceOp::kAverage ? spec.divisor : 1;
  T result = Multiply(operands[0], static_cast<T>(spec.prescale));
  for (std::size_t s = 1; s < operands.size(); ++s) {
    result = CombineFloats(spec.op, result, Multiply(operands[s], static_cast<T>(spec.prescale)));
  }
  result = Multiply(result, static_cast<T>(spec.postscale / divisor));
  return std::isnan(result) ? std::numeric_limits<T>::quiet_NaN() : result;
}

// Through 128-bit integers and long double, which hold every 64-bit value exactly.
template <class T, class From>
T ScaleInteger(From x, double factor) {
  if (factor == 1.0) return static_cast<T>(x);
  const double product = std::trunc(static_cast<double>(x) * factor);
  const auto low = static_cast<long double>(std::numeric_limits<T>::min());
  const auto high = static_cast<long double>(std::numeric_limits<T>::max());
  if (static_cast<long double>(product) > high) return std::numeric_limits<T>::max();
  if (static_cast<long double>(product) < low) return std::numeric_limits<T>::min();
  return static_cast<T>(product);
}

template <class T>
T ReduceIntegers(const ReduceSpec& spec, const std::vector<T>& operands) {
  __extension__ using Int128 = __int128;
  Int128 result = ScaleInteger<T>(operands[0], spec.prescale);
  for (std::size_t s = 1; s < operands.size(); ++s) {
    const T x = ScaleInteger<T>(operands[s], spec.prescale);
    switch (spec.op) {
      case ReduceOp::kAverage:
      case ReduceOp::kSum:
        result += x;
        break;
      case ReduceOp::kProduct:
        result = static_cast<T>(static_cast<std::uint64_t>(result) * static_cast<std::uint64_t>(x));
        break;
      case ReduceOp::kMin:
        result = x < result ? x : result;
        break;
      case ReduceOp::kMax:
        result = x > result ? x : result;
        break;
      case ReduceOp::kAdasum:
        break;
    }
  }
  if (spec.op == ReduceOp::kAverage) result /= spec.divisor;
  return ScaleInteger<T>(result, spec.postscale);
}

inline std::uint8_t ReduceTruths(const ReduceSpec& spec,
                                 const std::vector<std::uint8_t>& operands) {
  const bool all = spec.op == ReduceOp::kMin || spec.op == ReduceOp::kProduct;
  bool result = all;
  for (const std::uint8_t x : operands) result = all ? result && x != 0 : result || x != 0;
  return result ? 1 : 0;
}

// of({x0, x1, …}) of every element, as bytes.
template <class T, class Of>
std::vector<std::byte> ForEachElement(std::span<const std::byte* const> sources, std::size_t count,
                                      Of&& of) {
  std::vector<std::byte> results(count * sizeof(T));
  std::vector<T> operands(sources.size());
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t s = 0; s < sources.size(); ++s) {
      std::memcpy(&operands[s], sources[s] + i * sizeof(T), sizeof(T));
    }
    const T result = of(operands);
    std::memcpy(results.data() + i * sizeof(T), &result, sizeof(T));
  }
  return results;
}

template <float (*widen)(std::uint16_t), std::uint16_t (*narrow)(float)>
std::vector<std::byte> ReduceHalves(const ReduceSpec& spec,
                                    std::span<const std::byte* const> sources, std::size_t count) {
  return ForEachElement<std::uint16_t>(sources, count, [&](const std::vector<std::uint16_t>& bits) {
    std::vector<float> operands;
    for (const std::uint16_t x : bits) operands.push_back(widen(x));
    return narrow(ReduceFloats(spec, operands));
  });
}

inline std::vector<std::byte> ReduceEights(const ReduceSpec& spec,
                                           std::span<const std::byte* const> sources,
                                           std::size_t count) {
  return ForEachElement<std::uint8_t>(sources, count, [&](const std::vector<std::uint8_t>& bits) {
    std::vector<float> operands;
    for (const std::uint8_t x : bits) operands.push_back(Float8ToFloat(spec.dtype, x));
    return FloatToFloat8(spec.dtype, ReduceFloats(spec, operands));
  });
}

template <class T>
std::vector<std::byte> ReduceNumbers(const ReduceSpec& spec,
                                     std::span<const std::byte* const> sources, std::size_t count) {
  return ForEachElement<T>(sources, count, [&](const std::vector<T>& operands) {
    if constexpr (std::is_floating_point_v<T>) {
      return ReduceFloats(spec, operands);
    } else {
      return ReduceIntegers(spec, operands);
    }
  });
}

inline std::vector<std::byte> ReferenceReduce(const ReduceSpec& spec,
                                              std::span<const std::byte* const> sources,
                                              std::size_t count) {
  const int divisor = spec.op == ReduceOp::kAverage ? spec.divisor : 1;
  const bool scaled = spec.prescale != 1.0 || spec.postscale / divisor != 1.0;
  if (sources.size() == 1 && (!scaled || spec.dtype == DType::kBool)) {
    return {sources[0], sources[0] + count * SizeOf(spec.dtype)};
  }
  switch (spec.dtype) {
    case DType::kUInt8:
      return ReduceNumbers<std::uint8_t>(spec, sources, count);
    case DType::kInt8:
      return ReduceNumbers<std::int8_t>(spec, sources, count);
    case DType::kUInt16:
      return ReduceNumbers<std::uint16_t>(spec, sources, count);
    case DType::kInt16:
      return ReduceNumbers<std::int16_t>(spec, sources, count);
    case DType::kUInt32:
      return ReduceNumbers<std::uint32_t>(spec, sources, count);
    case DType::kInt32:
      return ReduceNumbers<std::int32_t>(spec, sources, count);
    case DType::kUInt64:
      return ReduceNumbers<std::uint64_t>(spec, sources, count);
    case DType::kInt64:
      return ReduceNumbers<std::int64_t>(spec, sources, count);
    case DType::kFloat16:
      return ReduceHalves<HalfToFloat, FloatToHalf>(spec, sources, count);
    case DType::kBFloat16:
      return ReduceHalves<BFloat16ToFloat, FloatToBFloat16>(spec, sources, count);
    case DType::kFloat32:
      return ReduceNumbers<float>(spec, sources, count);
    case DType::kFloat64:
      return ReduceNumbers<double>(spec, sources, count);
    case DType::kComplex64:
      return ReduceNumbers<float>(spec, sources, 2 * count);
    case DType::kComplex128:
      return ReduceNumbers<double>(spec, sources, 2 * count);
    case DType::kFloat8E4M3FN:
    case DType::kFloat8E4M3FNUZ:
    case DType::kFloat8E5M2:
    case DType::kFloat8E5M2FNUZ:
      return ReduceEights(spec, sources, count);
    default:
      return ForEachElement<std::uint8_t>(
          sources, count, [&](const auto& operands) { return ReduceTruths(spec, operands); });
  }
}

}  // namespace hora
