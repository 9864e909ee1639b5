// The arithmetic of Adasum on one rank's slice. Internal to adasum.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "hora/tensor/half.h"

namespace hora::adasum {

// How tensors are stored, and the type that they are combined in.
template <class T>
struct Plain {
  using Value = T;
  static constexpr std::size_t kBytes = sizeof(T);

  static T Load(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  static void Store(T value, std::byte* to) { std::memcpy(to, &value, sizeof(value)); }
};

template <float (*widen)(std::uint16_t), std::uint16_t (*narrow)(float)>
struct SixteenBits {
  using Value = float;
  static constexpr std::size_t kBytes = 2;

  static float Load(const std::byte* from) { return widen(Plain<std::uint16_t>::Load(from)); }
  static void Store(float value, std::byte* to) { Plain<std::uint16_t>::Store(narrow(value), to); }
};
using Half = SixteenBits<HalfToFloat, FloatToHalf>;
using BFloat16 = SixteenBits<BFloat16ToFloat, FloatToBFloat16>;

// Where as many elements as there are values go before Widen.
template <class Element>
std::span<std::byte> StoredAtEnd(std::span<typename Element::Value> values) {
  return std::as_writable_bytes(values).last(values.size() * Element::kBytes);
}

// Elements that lie packed at the end of the memory of `values` become values, in place: nothing is
// overwritten before it is read.
template <class Element>
void Widen(std::span<typename Element::Value> values, typename Element::Value scale) {
  using Value = typename Element::Value;
  if (std::is_same_v<Element, Plain<Value>> && scale == 1) return;
  const std::byte* from = StoredAtEnd<Element>(values).data();
  for (Value& value : values) {
    value = Element::Load(from) * scale;
    from += Element::kBytes;
  }
}

// The way back, but to the beginning of the memory.
template <class Element>
std::span<std::byte> Narrow(std::span<typename Element::Value> values,
                            typename Element::Value scale) {
  using Value = typename Element::Value;
  const std::span<std::byte> memory = std::as_writable_bytes(values);
  if (std::is_same_v<Element, Plain<Value>> && scale == 1) return memory;
  std::byte* to = memory.data();
  for (const Value value : values) {
    Element::Store(value * scale, to);
    to += Element::kBytes;
  }
  return memory.first(values.size() * Element::kBytes);
}

// Travels between ranks: three doubles.
struct Dots {
  double ab = 0;
  double aa = 0;
  double bb = 0;

  Dots& operator+=(const Dots& other) {
    ab += other.ab;
    aa += other.aa;
    bb += other.bb;
    return *this;
  }
};

// Element i is added in lane i % kLanes: an order that is fixed, and that the compiler may keep in
// vector registers.
template <class Value>
Dots DotsOf(std::span<const Value> a, std::span<const Value> b) {
  constexpr std::size_t kLanes = 8;
  std::array<double, kLanes> ab{}, aa{}, bb{};
  const auto add = [&](std::size_t i, std::size_t lane) {
    const double x = a[i], y = b[i];
    ab[lane] += x * y;
    aa[lane] += x * x;
    bb[lane] += y * y;
  };
  std::size_t i = 0;
  for (; i + kLanes <= a.size(); i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  }
  for (; i < a.size(); ++i) add(i, i % kLanes);
  Dots sum;
  for (std::size_t lane = 0; lane < kLanes; ++lane) sum += {ab[lane], aa[lane], bb[lane]};
  return sum;
}

// a = (1 - ab / 2aa) a + (1 - ab / 2bb) b, a term without length in full.
template <class Value>
void CombineInto(std::span<Value> a, std::span<const Value> b, const Dots& dots) {
  const auto weight = [&](double squared) {
    return static_cast<Value>(squared == 0 ? 1.0 : 1.0 - dots.ab / (2 * squared));
  };
  const Value of_a = weight(dots.aa), of_b = weight(dots.bb);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = of_a * a[i] + of_b * b[i];
}

}  // namespace hora::adasum
