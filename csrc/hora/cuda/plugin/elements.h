// Arithmetic on elements as they pass: the same on a GPU and, in tests, on a CPU.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "hora/kernels/float8.h"

#ifdef __CUDACC__
#define HORA_DEVICE __host__ __device__
#else
#define HORA_DEVICE
#include "hora/tensor/half.h"
#endif

namespace hora {

// Each element type: what is stored, what it is widened to, and back, rounding to nearest even.
// NaNs become the canonical one.
struct Float16Element {
  using Stored = std::uint16_t;
  using Wide = float;
  HORA_DEVICE static float Widen(Stored bits) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#elif defined(__CUDACC__)
    return static_cast<float>(bits);    // never called
#else
    return HalfToFloat(bits);
#endif
  }
  HORA_DEVICE static Stored Narrow(float value) {
    if (value != value) return 0x7E00;
#ifdef __CUDA_ARCH__
    Stored bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#elif defined(__CUDACC__)
    return static_cast<Stored>(value);  // never called
#else
    return FloatToHalf(value);
#endif
  }
};

struct BFloat16Element {
  using Stored = std::uint16_t;
  using Wide = float;
  static constexpr float Widen(Stored bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  static constexpr Stored Narrow(float value) {
    if (value != value) return 0x7FC0;
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<Stored>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
  }
};

template <class T>
struct PlainElement {
  using Stored = T;
  using Wide = T;
  static constexpr T Widen(T value) { return value; }
  template <class From>
  static constexpr T Narrow(From value) {
    return value != value ? std::numeric_limits<T>::quiet_NaN() : static_cast<T>(value);
  }
};
using Float32Element = PlainElement<float>;
using Float64Element = PlainElement<double>;

template <Float8Format format>
struct Float8Element {
  using Stored = std::uint8_t;
  using Wide = float;
  static constexpr float Widen(Stored bits) { return WidenFloat8(format, bits); }
  static constexpr Stored Narrow(float value) { return NarrowToFloat8(format, value); }
};

// --- What a kernel does to each element ----------------------------------------------------------

template <class FromElement, class ToElement>
struct CastElement {
  using From = typename FromElement::Stored;
  using To = typename ToElement::Stored;
  using Wide = std::conditional_t<std::is_same_v<FromElement, Float64Element> ||
                                      std::is_same_v<ToElement, Float64Element>,
                                  double, float>;
  Wide factor;

  CastElement(double scale, int divisor) : factor(static_cast<Wide>(scale / divisor)) {}
  HORA_DEVICE To operator()(From x) const {
    const Wide value = static_cast<Wide>(FromElement::Widen(x)) * factor;
    return ToElement::Narrow(static_cast<typename ToElement::Wide>(value));
  }
};

// A reduction of one source: two roundings, as kernels/reduce.h has them.
template <class Element>
struct ScaleElement {
  using From = typename Element::Stored;
  using To = From;
  using Wide = typename Element::Wide;
  Wide prescale, postscale;

  ScaleElement(double scale, int divisor)
      : prescale(static_cast<Wide>(scale)), postscale(static_cast<Wide>(1.0 / divisor)) {}
  HORA_DEVICE To operator()(From x) const {
    return Element::Narrow(Element::Widen(x) * prescale * postscale);
  }
};

// x · scale in fp64, truncated, at the nearest end of the range where it leaves it, NaN as 0; then
// the exact quotient.
template <class T>
struct ScaleInteger {
  using From = T;
  using To = T;
  double scale;
  int divisor;

  ScaleInteger(double factor, int by) : scale(factor), divisor(by) {}
  HORA_DEVICE T operator()(T x) const {
    using Wide = std::conditional_t<std::is_same_v<T, std::uint64_t>, std::uint64_t, std::int64_t>;
    const T scaled = scale == 1.0 ? x : Scaled(static_cast<double>(x) * scale);
    return static_cast<T>(static_cast<Wide>(scaled) / static_cast<Wide>(divisor));
  }

 private:
  static constexpr T Scaled(double product) {
    using Limits = std::numeric_limits<T>;
    // The first double above the range; unlike max() of 64-bit types it is one.
    constexpr double kEnd = 2.0 * static_cast<double>(std::uint64_t{1} << (Limits::digits - 1));
    if (product != product) return 0;
    if (product >= kEnd) return Limits::max();
    if (product <= static_cast<double>(Limits::min())) return Limits::min();
    return static_cast<T>(product);
  }
};

}  // namespace hora
