// How the elements of a tensor are stored, and the type that they are combined in: the reading and
// writing end of reduce_kernels.h, under the same rules (see there).
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

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

// Read and Write move one register of stored elements from and to memory. It holds two registers of
// values where elements are half as wide; in which order does not matter, they never meet.
template <class Simd>
struct ReduceElements {
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
      Pack<std::uint16_t, kLanes<Register>> stored[kParts<Half, Register>];
      for (int i = 0; i < kParts<Half, Register>; ++i) {
        __builtin_memcpy(&stored[i], from + i * sizeof(stored[0]), sizeof(stored[0]));
        x[i] = Simd::WidenHalf(stored[i]);
      }
    }
    template <class Register>
    [[gnu::always_inline]] static void Write(const Register* x, std::byte* to) {
      for (int i = 0; i < kParts<Half, Register>; ++i) {
        const Pack<std::uint16_t, kLanes<Register>> stored = Simd::NarrowToHalf(x[i]);
        __builtin_memcpy(to + i * sizeof(stored), &stored, sizeof(stored));
      }
    }
  };

  struct BFloat16 {
    using Stored = std::uint16_t;
    using Value = float;
    // Where a float has the bits of a bfloat16.
    static constexpr std::uint32_t kUpper = 0xFFFF0000u;

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
  static constexpr int kParts = std::is_same_v<Register, typename Element::Value>
                                    ? 1
                                    : static_cast<int>(sizeof(typename Element::Value) /
                                                       sizeof(typename Element::Stored));
};

}  // namespace hora
