#include <arm_neon.h>

#include "hora/kernels/reduce_kernels.h"

namespace hora {
namespace {

struct Neon {
  static constexpr std::size_t kVectorBytes = 16;

  [[gnu::always_inline]] static Pack<float, 4> WidenHalf(Pack<std::uint16_t, 4> x) {
    return (Pack<float, 4>)vcvt_f32_f16((float16x4_t)x);
  }
  [[gnu::always_inline]] static Pack<std::uint16_t, 4> NarrowToHalf(Pack<float, 4> x) {
    return (Pack<std::uint16_t, 4>)vcvt_f16_f32((float32x4_t)x);
  }
  [[gnu::always_inline]] static float WidenHalf(std::uint16_t x) {
    return static_cast<float>(__builtin_bit_cast(__fp16, x));
  }
  [[gnu::always_inline]] static std::uint16_t NarrowToHalf(float x) {
    return __builtin_bit_cast(std::uint16_t, static_cast<__fp16>(x));
  }
};

constexpr ReduceTable kTable = ReduceKernels<Neon>::Table();

}  // namespace

const ReduceTable& NeonReduceTable() { return kTable; }

}  // namespace hora
