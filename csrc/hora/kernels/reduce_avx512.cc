#include <immintrin.h>

#include "hora/kernels/reduce_kernels.h"

namespace hora {
namespace {

struct Avx512 {
  static constexpr std::size_t kVectorBytes = 64;
  // The forms without a mask make gcc 12 warn of a value that is undefined on purpose.
  static constexpr __mmask16 kAll = 0xFFFF;

  [[gnu::always_inline]] static Pack<float, 16> WidenHalf(Pack<std::uint16_t, 16> x) {
    return (Pack<float, 16>)_mm512_maskz_cvtph_ps(kAll, (__m256i)x);
  }
  [[gnu::always_inline]] static Pack<std::uint16_t, 16> NarrowToHalf(Pack<float, 16> x) {
    return (Pack<std::uint16_t, 16>)_mm512_maskz_cvtps_ph(kAll, (__m512)x,
                                                          _MM_FROUND_TO_NEAREST_INT);
  }
  [[gnu::always_inline]] static float WidenHalf(std::uint16_t x) { return _cvtsh_ss(x); }
  [[gnu::always_inline]] static std::uint16_t NarrowToHalf(float x) {
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
  }
};

constexpr ReduceTable kTable = ReduceKernels<Avx512>::Table();

}  // namespace

const ReduceTable& Avx512ReduceTable() { return kTable; }

}  // namespace hora
