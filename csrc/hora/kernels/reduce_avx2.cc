#include <immintrin.h>

#include "hora/kernels/reduce_kernels.h"

namespace hora {
namespace {

struct Avx2 {
  static constexpr std::size_t kVectorBytes = 32;

  [[gnu::always_inline]] static Pack<float, 8> WidenHalf(Pack<std::uint16_t, 8> x) {
    return (Pack<float, 8>)_mm256_cvtph_ps((__m128i)x);
  }
  [[gnu::always_inline]] static Pack<std::uint16_t, 8> NarrowToHalf(Pack<float, 8> x) {
    return (Pack<std::uint16_t, 8>)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT);
  }
  [[gnu::always_inline]] static float WidenHalf(std::uint16_t x) { return _cvtsh_ss(x); }
  [[gnu::always_inline]] static std::uint16_t NarrowToHalf(float x) {
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
  }
};

constexpr ReduceTable kTable = ReduceKernels<Avx2>::Table();

}  // namespace

const ReduceTable& Avx2ReduceTable() { return kTable; }

}  // namespace hora
