#include "hora/kernels/crc32c.h"

#include <array>
#include <bit>
#include <cstring>

#include "hora/kernels/cpu_features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HORA_CRC_TARGET __attribute__((target("sse4.2")))
#define HORA_FOLD_TARGET __attribute__((target("avx512f,vpclmulqdq")))
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <sys/auxv.h>
#define HORA_CRC_TARGET __attribute__((target("+crc")))
#endif

namespace hora {
namespace {

// Polynomials over GF(2), bit 31 is the coefficient of x^0, modulo this one without its x^32.
constexpr std::uint32_t kPolynomial = 0x82f63b78;

constexpr std::uint32_t TimesX(std::uint32_t a) {
  return (a & 1) != 0 ? (a >> 1) ^ kPolynomial : a >> 1;
}

constexpr std::uint32_t Times(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (std::uint32_t bit = 1u << 31; bit != 0; bit >>= 1, b = TimesX(b)) {
    if ((a & bit) != 0) product ^= b;
  }
  return product;
}

constexpr std::uint32_t PowerOfX(std::size_t exponent) {
  std::uint32_t power = 1u << 31;
  for (std::uint32_t square = 1u << 30; exponent != 0;
       exponent >>= 1, square = Times(square, square)) {
    if ((exponent & 1) != 0) power = Times(power, square);
  }
  return power;
}

// Entry [k][b]: what byte b of a register becomes when k more bytes have passed after it.
using SliceTable = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr SliceTable MakeSlices() {
  SliceTable table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t state = byte;
    for (int k = 0; k < 8; ++k) {
      for (int bit = 0; bit < 8; ++bit) state = TimesX(state);
      table[k][byte] = state;
    }
  }
  return table;
}

constexpr SliceTable kSlices = MakeSlices();

std::uint64_t LoadWord(const std::byte* from) {
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t word = 0;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Both twins work on the register itself, which the checksum is the inverse of.
std::uint32_t ByTables(std::uint32_t state, std::span<const std::byte> bytes) {
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    const std::uint64_t word = LoadWord(bytes.data()) ^ state;
    state = 0;
    for (int i = 0; i < 8; ++i) state ^= kSlices[7 - i][(word >> (8 * i)) & 0xff];
  }
  for (const std::byte byte : bytes) {
    state = (state >> 8) ^ kSlices[0][(state ^ std::to_integer<std::uint32_t>(byte)) & 0xff];
  }
  return state;
}

#if defined(HORA_CRC_TARGET)

// The instruction takes a new word every cycle, but three cycles to tell: three thirds of a block
// are done side by side, then each is moved to the end of the next by a table for its length.
constexpr std::size_t kLongThird = 4096;
constexpr std::size_t kShortThird = 256;

using ShiftTable = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr ShiftTable MakeShift(std::size_t bytes) {
  const std::uint32_t power = PowerOfX(8 * bytes);
  ShiftTable table{};
  for (int i = 0; i < 4; ++i) {
    for (std::uint32_t byte = 0; byte < 256; ++byte) table[i][byte] = Times(power, byte << (8 * i));
  }
  return table;
}

template <std::size_t kThird>
constexpr ShiftTable kShift = MakeShift(kThird);

template <std::size_t kThird>
std::uint32_t Shifted(std::uint32_t state) {
  const ShiftTable& table = kShift<kThird>;
  return table[0][state & 0xff] ^ table[1][(state >> 8) & 0xff] ^ table[2][(state >> 16) & 0xff] ^
         table[3][state >> 24];
}

#if defined(__x86_64__)
HORA_CRC_TARGET inline std::uint64_t AddWord(std::uint64_t state, std::uint64_t word) {
  return _mm_crc32_u64(state, word);
}
HORA_CRC_TARGET inline std::uint32_t AddByte(std::uint32_t state, std::byte byte) {
  return _mm_crc32_u8(state, static_cast<unsigned char>(byte));
}
bool HasInstruction() { return __builtin_cpu_supports("sse4.2"); }
#else
HORA_CRC_TARGET inline std::uint64_t AddWord(std::uint64_t state, std::uint64_t word) {
  return __crc32cd(static_cast<std::uint32_t>(state), word);
}
HORA_CRC_TARGET inline std::uint32_t AddByte(std::uint32_t state, std::byte byte) {
  return __crc32cb(state, static_cast<unsigned char>(byte));
}
bool HasInstruction() { return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0; }
#endif

template <std::size_t kThird>
HORA_CRC_TARGET std::uint32_t ByThirds(std::uint32_t state, std::span<const std::byte>& bytes) {
  for (; bytes.size() >= 3 * kThird; bytes = bytes.subspan(3 * kThird)) {
    const std::byte* const first = bytes.data();
    std::uint64_t a = state;
    std::uint64_t b = 0;
    std::uint64_t c = 0;
    for (std::size_t i = 0; i < kThird; i += 8) {
      a = AddWord(a, LoadWord(first + i));
      b = AddWord(b, LoadWord(first + kThird + i));
      c = AddWord(c, LoadWord(first + 2 * kThird + i));
    }
    const auto ab = Shifted<kThird>(static_cast<std::uint32_t>(a)) ^ static_cast<std::uint32_t>(b);
    state = Shifted<kThird>(ab) ^ static_cast<std::uint32_t>(c);
  }
  return state;
}

HORA_CRC_TARGET std::uint32_t ByInstruction(std::uint32_t state, std::span<const std::byte> bytes) {
  state = ByThirds<kLongThird>(state, bytes);
  state = ByThirds<kShortThird>(state, bytes);
  std::uint64_t wide = state;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) wide = AddWord(wide, LoadWord(bytes.data()));
  state = static_cast<std::uint32_t>(wide);
  for (const std::byte byte : bytes) state = AddByte(state, byte);
  return state;
}

bool UseInstruction() {
  static const bool has_instruction = HasInstruction();
  return has_instruction && ActiveCpuLevel() != CpuLevel::kScalar;
}

#else

bool UseInstruction() { return false; }
std::uint32_t ByInstruction(std::uint32_t state, std::span<const std::byte> bytes) {
  return ByTables(state, bytes);
}

#endif

// A block is a polynomial; modulo the other one, it may be moved to the end of the next block and
// added to that: a third of the time of the instruction, which sees the last block only.
constexpr std::size_t kFoldBytes = 256;
constexpr std::size_t kWorthFolding = 4 * kFoldBytes;

#if defined(HORA_FOLD_TARGET)

// What the halves of 16 bytes are multiplied by. Bit 63 of a half is x^0, as bit 31 is above. The
// product of two words is one power short of where it is read: hence the exponents.
constexpr std::uint64_t kFoldFirst = std::uint64_t{PowerOfX(8 * kFoldBytes + 63)} << 32;
constexpr std::uint64_t kFoldSecond = std::uint64_t{PowerOfX(8 * kFoldBytes - 1)} << 32;

bool UseFolding() {
  static const bool has_product = __builtin_cpu_supports("vpclmulqdq");
  return has_product && ActiveCpuLevel() == CpuLevel::kAvx512;
}

HORA_FOLD_TARGET inline __m512i LoadBlock(const std::byte* from) {
  return _mm512_loadu_si512(from);
}

HORA_FOLD_TARGET inline __m512i Folded(__m512i block, __m512i factors, __m512i next) {
  const __m512i first = _mm512_clmulepi64_epi128(block, factors, 0x00);
  const __m512i second = _mm512_clmulepi64_epi128(block, factors, 0x11);
  return _mm512_ternarylogic_epi64(first, second, next, 0x96);
}

// Takes whole blocks from `bytes` and leaves one in `last` that has the same checksum from zero on.
HORA_FOLD_TARGET void Fold(std::uint32_t state, std::span<const std::byte>& bytes,
                           std::span<std::byte, kFoldBytes> last) {
  const auto one = static_cast<long long>(kFoldFirst);
  const auto two = static_cast<long long>(kFoldSecond);
  const __m512i factors = _mm512_set4_epi64(two, one, two, one);
  const std::byte* from = bytes.data();
  __m512i a = _mm512_xor_si512(LoadBlock(from),
                               _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state))));
  __m512i b = LoadBlock(from + 64);
  __m512i c = LoadBlock(from + 128);
  __m512i d = LoadBlock(from + 192);
  for (bytes = bytes.subspan(kFoldBytes); bytes.size() >= kFoldBytes;
       bytes = bytes.subspan(kFoldBytes)) {
    from = bytes.data();
    a = Folded(a, factors, LoadBlock(from));
    b = Folded(b, factors, LoadBlock(from + 64));
    c = Folded(c, factors, LoadBlock(from + 128));
    d = Folded(d, factors, LoadBlock(from + 192));
  }
  _mm512_storeu_si512(last.data(), a);
  _mm512_storeu_si512(last.data() + 64, b);
  _mm512_storeu_si512(last.data() + 128, c);
  _mm512_storeu_si512(last.data() + 192, d);
}

std::uint32_t ByFolding(std::uint32_t state, std::span<const std::byte> bytes) {
  std::array<std::byte, kFoldBytes> last;
  Fold(state, bytes, last);
  return ByInstruction(ByInstruction(0, last), bytes);
}

#else

bool UseFolding() { return false; }
std::uint32_t ByFolding(std::uint32_t state, std::span<const std::byte> bytes) {
  return ByInstruction(state, bytes);
}

#endif

}  // namespace

std::uint32_t Crc32c(std::span<const std::byte> bytes, std::uint32_t previous) {
  const std::uint32_t state = ~previous;
  if (bytes.size() >= kWorthFolding && UseFolding()) return ~ByFolding(state, bytes);
  return ~(UseInstruction() ? ByInstruction(state, bytes) : ByTables(state, bytes));
}

}  // namespace hora
