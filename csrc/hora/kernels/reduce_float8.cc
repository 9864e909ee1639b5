#include <algorithm>
#include <limits>

#include "hora/base/check.h"
#include "hora/kernels/float8.h"
#include "hora/kernels/reduce_table.h"

namespace hora {
namespace {

constexpr std::size_t kBlock = 256;

template <Combine combine>
float Combined(float a, float b) {
  switch (combine) {
    case Combine::kSum:
      return a + b;
    case Combine::kProduct:
      return a * b;
    case Combine::kMin:
      return a != a || a < b ? a : b;
    case Combine::kMax:
      return a != a || a > b ? a : b;
  }
}

// A block of values stays in the cache while source after source is combined into it. All sources
// are read before the first destination is written, which may be one of them.
template <const Float8Format& format, Combine combine>
void Run(const ReduceCall& call) {
  static constexpr std::array<float, 256> kValues = Float8Values(format);
  const auto prescale = static_cast<float>(call.prescale);
  const auto postscale = static_cast<float>(call.postscale);
  const auto value = [&](const std::byte* from) {
    return kValues[std::to_integer<std::size_t>(*from)] * prescale;
  };
  float results[kBlock];
  for (std::size_t at = 0; at < call.count; at += kBlock) {
    const std::size_t count = std::min(kBlock, call.count - at);
    for (std::size_t i = 0; i < count; ++i) results[i] = value(call.sources[0] + at + i);
    for (std::size_t s = 1; s < call.source_count; ++s) {
      const std::byte* const from = call.sources[s] + at;
      for (std::size_t i = 0; i < count; ++i) {
        results[i] = Combined<combine>(results[i], value(from + i));
      }
    }
    std::byte stored[kBlock];
    for (std::size_t i = 0; i < count; ++i) {
      stored[i] = std::byte{NarrowToFloat8(format, results[i] * postscale)};
    }
    for (std::size_t d = 0; d < call.destination_count; ++d) {
      __builtin_memcpy(call.destinations[d] + at, stored, count);
    }
  }
}

template <const Float8Format& format>
void Run(Combine combine, const ReduceCall& call) {
  switch (combine) {
    case Combine::kSum:
      return Run<format, Combine::kSum>(call);
    case Combine::kMin:
      return Run<format, Combine::kMin>(call);
    case Combine::kMax:
      return Run<format, Combine::kMax>(call);
    case Combine::kProduct:
      return Run<format, Combine::kProduct>(call);
  }
}

}  // namespace

void ReduceFloat8(DType dtype, Combine combine, const ReduceCall& call) {
  switch (dtype) {
    case DType::kFloat8E4M3FN:
      return Run<kE4M3FN>(combine, call);
    case DType::kFloat8E4M3FNUZ:
      return Run<kE4M3FNUZ>(combine, call);
    case DType::kFloat8E5M2:
      return Run<kE5M2>(combine, call);
    case DType::kFloat8E5M2FNUZ:
      return Run<kE5M2FNUZ>(combine, call);
    default:
      Check(false, "one of the 8-bit floats");
  }
}

}  // namespace hora
