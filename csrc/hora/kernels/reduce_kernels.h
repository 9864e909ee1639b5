// The reduce kernels, written once in GCC's vector types and instantiated per instruction set.
//
// A file reduce_<level>.cc defines a tag type Simd in an anonymous namespace:
//   kVectorBytes                   register width, or 0 for one element at a time
//   WidenHalf(x), NarrowToHalf(x)  fp16 bits ↔ float, of one element and of a register of floats
// Everything here is a member of a template over that tag. The tag has internal linkage, and so has
// every instantiation: the linker cannot share code between files built for different CPUs. Keep it
// so: no function outside of ReduceKernels, and no inline function of another header inside of it.
//
// Why every level gives the same bits: elements never meet, each is combined in the order of the
// sources by IEEE operations that round alike everywhere, contraction to fma is off, and a NaN
// result is replaced by one canonical NaN (which NaN an addition returns depends on operand order).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "hora/kernels/reduce_table.h"

namespace hora {

template <class T, int lanes>
struct PackOf {
  typedef T Type __attribute__((vector_size(lanes * sizeof(T))));  // NOLINT: `using` cannot say it
};
template <class T>
struct PackOf<T, 1> {
  using Type = T;
};
// A register of `lanes` values; a plain T when there is one.
template <class T, int lanes>
using Pack = typename PackOf<T, lanes>::Type;

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

  // --- Elements: how a type is stored, and the type that it is combined in -----------------------
  //
  // Read and Write move one register of stored elements from and to memory. It holds two registers
  // of values where elements are half as wide; in which order does not matter, they never meet.

  template <class T>
  struct Plain {
    using Stored = T;
    using Value = T;

    template <class Register>
    [[gnu::always_inline]] static void Read(const std::byte* from, Register* x) {
      __builtin_memcpy(x, from, sizeof(Register));
    }
    template <class Register>
    [[gnu::always_inline]] static void Write(const Register* x, std::byte* to) {
      __builtin_memcpy(to, x, sizeof(Register));
    }
  };

  struct Truth : Plain<std::uint8_t> {
    template <class Register>
    [[gnu::always_inline]] static void Read(const std::byte* from, Register* x) {
      __builtin_memcpy(x, from, sizeof(Register));
      const Register one = Register{} + std::uint8_t{1};
      x[0] = x[0] != Register{} ? one : Register{};
    }
  };

  struct Half {
    using Stored = std::uint16_t;
    using Value = float;

    template <class Register>
    static constexpr int kLanes = static_cast<int>(sizeof(Register) / sizeof(float));

    template <class Register>
    [[gnu::always_inline]] static void Read(const std::byte* from, Register* x) {
      Pack<std::uint16_t, kLanes<Register>> stored[kRegisters<Half, Register>];
      for (int i = 0; i < kRegisters<Half, Register>; ++i) {
        __builtin_memcpy(&stored[i], from + i * sizeof(stored[0]), sizeof(stored[0]));
        x[i] = Simd::WidenHalf(stored[i]);
      }
    }
    template <class Register>
    [[gnu::always_inline]] static void Write(const Register* x, std::byte* to) {
      for (int i = 0; i < kRegisters<Half, Register>; ++i) {
        const Pack<std::uint16_t, kLanes<Register>> stored = Simd::NarrowToHalf(x[i]);
        __builtin_memcpy(to + i * sizeof(stored), &stored, sizeof(stored));
      }
    }
  };

  struct BFloat16 {
    using Stored = std::uint16_t;
    using Value = float;
    static constexpr std::uint32_t kUpper = 0xFFFF0000u;  // where a float has the bits of a bfloat16

    template <class Register>
    [[gnu::always_inline]] static void Read(const std::byte* from, Register* x) {
      if constexpr (std::is_same_v<Register, float>) {
        std::uint16_t stored;
        __builtin_memcpy(&stored, from, sizeof(stored));
        x[0] = __builtin_bit_cast(float, static_cast<std::uint32_t>(stored) << 16);
      } else {
        Bits<Register> stored;  // two elements in 32 bits: no lane changes its place
        __builtin_memcpy(&stored, from, sizeof(stored));
        x[0] = __builtin_bit_cast(Register, stored << 16);
        x[1] = __builtin_bit_cast(Register, stored & kUpper);
      }
    }
    template <class Register>
    [[gnu::always_inline]] static void Write(const Register* x, std::byte* to) {
      if constexpr (std::is_same_v<Register, float>) {
        const auto stored = static_cast<std::uint16_t>(Rounded(x[0]) >> 16);
        __builtin_memcpy(to, &stored, sizeof(stored));
      } else {
        const Bits<Register> stored = Rounded(x[0]) >> 16 | (Rounded(x[1]) & kUpper);
        __builtin_memcpy(to, &stored, sizeof(stored));
      }
    }

   private:
    template <class Register>
    using Bits = Pack<std::uint32_t, static_cast<int>(sizeof(Register) / sizeof(float))>;

    // To nearest even, in the upper half. The canonical NaN survives it, no other NaN gets here.
    template <class Register>
    [[gnu::always_inline]] static Bits<Register> Rounded(Register x) {
      const auto bits = __builtin_bit_cast(Bits<Register>, x);
      return bits + 0x7FFFu + (bits >> 16 & 1u);
    }
  };

  // Registers of values that one register of stored elements becomes.
  template <class Element, class Register>
  static constexpr int kRegisters =
      std::is_same_v<Register, typename Element::Value>
          ? 1
          : static_cast<int>(sizeof(typename Element::Value) / sizeof(typename Element::Stored));

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

  // Per block: enough independent additions to hide their latency.
  static constexpr int kGroups = 4;
};

}  // namespace hora
