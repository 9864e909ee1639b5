// Element-wise reduction over N sources in one pass: the arithmetic of every all-reduce.
#pragma once

#include <cstddef>
#include <span>

#include "hora/tensor/dtype.h"
#include "hora/tensor/reduce_op.h"

namespace hora {

// out[i] = finish(op(pre(s0[i]), pre(s1[i]), …)), always combined in the order of `sources`, so the
// result has the same bits on every rank, CPU and run.
//   pre(x)    = x · prescale;   integers: in fp64, truncated towards zero, per source (as Horovod)
//   finish(y) = y · postscale;  kAverage divides by `divisor` first: floats multiply by
//               postscale / divisor, integers divide exactly, truncating towards zero
// 16-bit and 8-bit floats are widened to fp32, combined there, and rounded to nearest even once; an
// 8-bit result beyond the format's range becomes what PyTorch casts it to (e4m3fn: the largest
// value, e5m2: infinity, the "fnuz" formats: NaN). Complex numbers are pairs of floats, summed and
// averaged as such; other operations are not defined for them.
// Integers wrap around, but averages and scaled sums are made of exact sums, so a mean never does;
// scaled values that leave the range become its nearest end.
// bool: sum and max are "or", min and product are "and", scales are ignored; kAverage is not
// defined. min and max of floats propagate NaN. A NaN result is the canonical quiet NaN, so that
// its bits do not depend on the CPU; a single source without scales is copied as it is.
struct ReduceSpec {
  DType dtype = DType::kFloat32;
  ReduceOp op = ReduceOp::kSum;
  double prescale = 1.0;
  double postscale = 1.0;
  int divisor = 1;
};

// Every source holds `count` elements; each destination receives all of them. A destination may be
// the same buffer as a source (but not overlap one partly). Any alignment. `dtype` and `op` must be
// reducible (see IsReducible), adasum is not element-wise and does not belong here.
void Reduce(const ReduceSpec& spec, std::span<const std::byte* const> sources,
            std::span<std::byte* const> destinations, std::size_t count);

}  // namespace hora
