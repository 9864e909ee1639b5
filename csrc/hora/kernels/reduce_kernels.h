// The reduce kernels, written once in GCC's vector types and instantiated per instruction set.
//
// A file reduce_<level>.cc defines a tag type Simd in an anonymous namespace:
//   kVectorBytes                   register width, or 0 for one element at a time
//   WidenHalf(x), NarrowToHalf(x)  fp16 bits ↔ float, of one element and of a register of floats
// Everything here is a member of a template over that tag. The tag has internal linkage, and so has
// every instantiation: the linker cannot share code between files built for different CPUs. Keep it
// so: no function outside of such a template, and no inline function of another header inside.
//
// Why every level gives the same bits: elements never meet, each is combined in the order of the
// sources by IEEE operations that round alike everywhere, contraction to fma is off, and a NaN
// result is replaced by one canonical NaN (which NaN an addition returns depends on operand order).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "hora/kernels/reduce_elements.h"
#include "hora/kernels/reduce_table.h"

namespace hora {

template <class Simd>
class ReduceKernels {
 public:
  static constexpr ReduceTable Table() {
    return {{
        IntegerRow<std::uint8_t>(),
        IntegerRow<std::int8_t>(),
        IntegerRow<std::uint16_t>(),
        IntegerRow<std::int16_t>(),
        IntegerRow<std::uint32_t>(),
        IntegerRow<std::int32_t>(),
        IntegerRow<std::uint64_t>(),
        IntegerRow<std::int64_t>(),
        FloatRow<Half>(),
        FloatRow<BFloat16>(),
        FloatRow<Plain<float>>(),
        FloatRow<Plain<double>>(),
        {{&Kernel<Truth, Combine::kMax>, &Kernel<Truth, Combine::kMin>,
          &Kernel<Truth, Combine::kMax>, &Kernel<Truth, Combine::kMin>}},
    }};
  }

 private:
  using Elements = ReduceElements<Simd>;
  using Half = typename Elements::Half;
  using BFloat16 = typename Elements::BFloat16;
  using Truth = typename Elements::Truth;
  template <class T>
  using Plain = typename Elements::template Plain<T>;

  template <class Element>
  static constexpr ReduceRow FloatRow() {
    return {{&Kernel<Element, Combine::kSum>, &Kernel<Element, Combine::kMin>,
             &Kernel<Element, Combine::kMax>, &Kernel<Element, Combine::kProduct>}};
  }

  // Sums and products have the same bits signed and unsigned, and unsigned ones may overflow.
  template <class T>
  static constexpr ReduceRow IntegerRow() {
    using Unsigned = std::make_unsigned_t<T>;
    return {{&Kernel<Plain<Unsigned>, Combine::kSum>, &Kernel<Plain<T>, Combine::kMin>,
             &Kernel<Plain<T>, Combine::kMax>, &Kernel<Plain<Unsigned>, Combine::kProduct>}};
  }

  // --- Arithmetic of one register ----------------------------------------------------------------

  template <Combine combine, class Value, class Register>
  [[gnu::always_inline]] static Register Combined(Register a, Register b) {
    if constexpr (combine == Combine::kMin || combine == Combine::kMax) {
      const Register ordered = combine == Combine::kMin ? (a < b ? a : b) : (a > b ? a : b);
      if constexpr (!std::is_floating_point_v<Value>) return ordered;
      return a != a ? a : ordered;  // the comparison with a NaN `b` has chosen `b` already
    } else if constexpr (std::is_same_v<Register, std::uint16_t>) {
      // Promotion would make it a product of ints, which may overflow.
      return static_cast<Register>(combine == Combine::kSum ? 1u * a + b : 1u * a * b);
    } else {
      return static_cast<Register>(combine == Combine::kSum ? a + b : a * b);
    }
  }

  // With one NaN for all, so that the bits of a result do not tell who computed it.
  template <class Value, class Register>
  [[gnu::always_inline]] static Register Finished(Register x, double postscale) {
    if constexpr (std::is_floating_point_v<Value>) {
      constexpr Value kNaN = std::numeric_limits<Value>::quiet_NaN();
      if (postscale != 1.0) x *= static_cast<Value>(postscale);
      return x == x ? x : Register{} + kNaN;
    } else {
      return x;
    }
  }

  // --- Loops -------------------------------------------------------------------------------------

  // `groups` registers of stored elements at byte `offset`: read from every source, combined in
  // registers, written to every destination. All reads come first: a destination may be a source.
  template <class Element, Combine combine, int lanes, int groups>
  [[gnu::always_inline]] static void Block(const ReduceCall& call, std::size_t offset) {
    using Value = typename Element::Value;
    using Stored = typename Element::Stored;
    constexpr int kParts = lanes == 1 ? 1 : static_cast<int>(sizeof(Value) / sizeof(Stored));
    using Register = Pack<Value, lanes / kParts>;
    constexpr std::size_t kGroupBytes = lanes * sizeof(Stored);
    Register result[groups][kParts];
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g) {
      Operand<Element>(call.sources[0] + offset + g * kGroupBytes, call.prescale, result[g]);
    }
    for (std::size_t s = 1; s < call.source_count; ++s) {
      const std::byte* const from = call.sources[s] + offset;
#pragma GCC unroll 8
      for (int g = 0; g < groups; ++g) {
        Register operand[kParts];
        Operand<Element>(from + g * kGroupBytes, call.prescale, operand);
#pragma GCC unroll 2
        for (int p = 0; p < kParts; ++p) {
          result[g][p] = Combined<combine, Value>(result[g][p], operand[p]);
        }
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g) {
#pragma GCC unroll 2
      for (int p = 0; p < kParts; ++p) {
        result[g][p] = Finished<Value>(result[g][p], call.postscale);
      }
    }
    for (std::size_t d = 0; d < call.destination_count; ++d) {
      std::byte* const to = call.destinations[d] + offset;
#pragma GCC unroll 8
      for (int g = 0; g < groups; ++g) Element::Write(result[g], to + g * kGroupBytes);
    }
  }

  template <class Element, class Register, std::size_t parts>
  [[gnu::always_inline]] static void Operand(const std::byte* from, double prescale,
                                             Register (&x)[parts]) {
    Element::Read(from, x);
    if constexpr (std::is_floating_point_v<typename Element::Value>) {
      if (prescale == 1.0) return;
      for (Register& part : x) part *= static_cast<typename Element::Value>(prescale);
    }
  }

  template <class Element, Combine combine>
  static void Kernel(const ReduceCall& shared_call) {
    const ReduceCall call = shared_call;  // no store can alias it: it stays in registers
    constexpr std::size_t kBytes = sizeof(typename Element::Stored);
    constexpr int kLanes = Simd::kVectorBytes == 0 ? 1 : Simd::kVectorBytes / kBytes;
    constexpr std::size_t kGroup = kLanes * kBytes;
    const std::size_t end = call.count * kBytes;
    std::size_t at = 0;
    for (; at + kGroups * kGroup <= end; at += kGroups * kGroup) {
      Block<Element, combine, kLanes, kGroups>(call, at);
    }
    for (; at + kGroup <= end; at += kGroup) Block<Element, combine, kLanes, 1>(call, at);
    if constexpr (kLanes > 1) {
      for (; at < end; at += kBytes) Block<Element, combine, 1, 1>(call, at);
    }
  }

  // Per block: enough independent additions to hide their latency, few enough to stay in registers.
  static constexpr int kGroups = 3;
};

}  // namespace hora
