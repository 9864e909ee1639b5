// One element at a time: the reference for every other level, and what an unknown CPU runs.
#include "hora/kernels/reduce_kernels.h"
#include "hora/tensor/half.h"

namespace hora {
namespace {

struct Scalar {
  static constexpr std::size_t kVectorBytes = 0;

  static float WidenHalf(std::uint16_t x) { return HalfToFloat(x); }
  static std::uint16_t NarrowToHalf(float x) { return FloatToHalf(x); }
};

constexpr ReduceTable kTable = ReduceKernels<Scalar>::Table();

}  // namespace

const ReduceTable& ScalarReduceTable() { return kTable; }

}  // namespace hora
