#include "hora/collectives/gloo/reductions.h"

#include <algorithm>
#include <type_traits>

#include "hora/tensor/dtype.h"
#include "hora/tensor/reduce_op.h"

namespace hora::gloo_plugin {
namespace {

struct Sum {
  template <class T>
  static T Of(T a, T b) {
    return static_cast<T>(a + b);
  }
};
struct Product {
  template <class T>
  static T Of(T a, T b) {
    return static_cast<T>(a * b);
  }
};
struct Min {
  template <class T>
  static T Of(T a, T b) {
    return std::min(a, b);
  }
};
struct Max {
  template <class T>
  static T Of(T a, T b) {
    return std::max(a, b);
  }
};

template <class T, class Op>
void Apply(void* to, const void* a, const void* b, std::size_t count) {
  T* const out = static_cast<T*>(to);
  const T* const x = static_cast<const T*>(a);
  const T* const y = static_cast<const T*>(b);
  for (std::size_t i = 0; i < count; ++i) out[i] = Op::template Of<T>(x[i], y[i]);
}

// Sums and products of integers wrap around, so they are those of numbers without a sign.
template <class T>
struct WrappingOf {
  using Type = std::make_unsigned_t<T>;
};
template <>
struct WrappingOf<float> {
  using Type = float;
};
template <>
struct WrappingOf<double> {
  using Type = double;
};
template <class T>
using Wrapping = typename WrappingOf<T>::Type;

template <class T>
Reduction ForOp(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return Apply<Wrapping<T>, Sum>;
    case ReduceOp::kProduct:
      return Apply<Wrapping<T>, Product>;
    case ReduceOp::kMin:
      return std::is_floating_point_v<T> ? nullptr : Apply<T, Min>;
    case ReduceOp::kMax:
      return std::is_floating_point_v<T> ? nullptr : Apply<T, Max>;
    default:
      return nullptr;
  }
}

}  // namespace

Reduction ReductionFor(hora_plugin_element element) {
  const auto op = static_cast<ReduceOp>(element.reduce_op);
  switch (static_cast<DType>(element.dtype)) {
    case DType::kUInt8:
      return ForOp<std::uint8_t>(op);
    case DType::kInt8:
      return ForOp<std::int8_t>(op);
    case DType::kInt32:
      return ForOp<std::int32_t>(op);
    case DType::kUInt32:
      return ForOp<std::uint32_t>(op);
    case DType::kInt64:
      return ForOp<std::int64_t>(op);
    case DType::kUInt64:
      return ForOp<std::uint64_t>(op);
    case DType::kFloat32:
      return ForOp<float>(op);
    case DType::kFloat64:
      return ForOp<double>(op);
    default:
      return nullptr;
  }
}

std::size_t BytesOf(hora_plugin_element element) {
  switch (static_cast<DType>(element.dtype)) {
    case DType::kUInt8:
    case DType::kInt8:
      return 1;
    case DType::kInt32:
    case DType::kUInt32:
    case DType::kFloat32:
      return 4;
    default:
      return 8;
  }
}

}  // namespace hora::gloo_plugin
