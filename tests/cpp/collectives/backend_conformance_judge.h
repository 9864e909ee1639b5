// Whether the result of a reduction is the expected one.
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "collectives/backend_conformance.h"
#include "kernels/reference_float8.h"

namespace hora::conformance {

template <class T>
T ValueAt(const Bytes& bytes, std::size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

inline bool IsComplex(DType dtype) {
  return dtype == DType::kComplex64 || dtype == DType::kComplex128;
}

inline bool Rounds(const OpParams& params) {
  const bool adds = params.reduce_op == ReduceOp::kSum || params.reduce_op == ReduceOp::kAverage ||
                    params.reduce_op == ReduceOp::kProduct;
  return adds &&
         (IsFloatingPoint(params.dtype) || IsComplex(params.dtype) || IsFloat8(params.dtype));
}

// The numbers of a tensor, two for each complex one.
inline std::vector<double> Numbers(DType dtype, const Bytes& bytes) {
  if (dtype == DType::kComplex64) dtype = DType::kFloat32;
  if (dtype == DType::kComplex128) dtype = DType::kFloat64;
  std::vector<double> numbers(bytes.size() / SizeOf(dtype));
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (dtype == DType::kFloat64) numbers[i] = ValueAt<double>(bytes, i);
    if (dtype == DType::kFloat32) numbers[i] = ValueAt<float>(bytes, i);
    if (dtype == DType::kFloat16) numbers[i] = HalfToFloat(ValueAt<std::uint16_t>(bytes, i));
    if (dtype == DType::kBFloat16) numbers[i] = BFloat16ToFloat(ValueAt<std::uint16_t>(bytes, i));
    if (IsFloat8(dtype)) numbers[i] = Float8ToFloat(dtype, ValueAt<std::uint8_t>(bytes, i));
  }
  return numbers;
}

// The distance of neighbours, next to one.
inline double StepOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kComplex128:
      return 0x1p-52;
    case DType::kFloat32:
    case DType::kComplex64:
      return 0x1p-23;
    case DType::kFloat16:
      return 0x1p-10;
    case DType::kBFloat16:
      return 0x1p-7;
    default:
      return 0.25;  // 8 bits
  }
}

// Every rank's bits are the expected ones, or, where order matters, near them.
class Judge {
 public:
  Judge(const OpParams& params, const Conformance& conformance, const std::vector<Bytes>& operands,
        int divisor, const RankSet& absent = {})
      : params_(params),
        exact_(conformance.in_rank_order || !Rounds(params)),
        ranks_(static_cast<int>(operands.size())),
        expected_(Expected(params, operands, divisor, absent)) {
    if (exact_) return;
    const bool average = params.reduce_op == ReduceOp::kAverage;
    const double scale = std::abs(params.prescale * params.postscale) / (average ? divisor : 1);
    for (std::size_t rank = 0; rank < operands.size(); ++rank) {
      if (absent.Contains(static_cast<int>(rank))) continue;
      const std::vector<double> numbers = Numbers(params.dtype, operands[rank]);
      magnitudes_.resize(numbers.size());
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        magnitudes_[i] += scale * std::abs(numbers[i]);
      }
    }
  }

  void Expect(int rank, const Bytes& result) const {
    if (exact_) {
      EXPECT_TRUE(result == expected_) << "rank " << rank << ", " << What();
      return;
    }
    const std::vector<double> got = Numbers(params_.dtype, result);
    const std::vector<double> wanted = Numbers(params_.dtype, expected_);
    const double steps = StepOf(params_.dtype) * (ranks_ + 2);
    const bool product = params_.reduce_op == ReduceOp::kProduct;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      // What left the range of a narrow type on the way is not judged.
      if (!std::isfinite(wanted[i]) || !std::isfinite(got[i])) continue;
      const double size = product ? std::abs(wanted[i]) : magnitudes_[i];
      ASSERT_NEAR(got[i], wanted[i], steps * size + 1e-30)
          << "rank " << rank << ", number " << i << ", " << What();
    }
  }

 private:
  // Traces of a test do not reach the threads of its ranks.
  std::string What() const {
    return std::string(ToString(params_.kind)) + " of " + std::to_string(expected_.size()) +
           " bytes of " + std::string(ToString(params_.dtype)) + ", " +
           std::string(ToString(params_.reduce_op)) + " scaled by " +
           std::to_string(params_.prescale) + " and " + std::to_string(params_.postscale);
  }

  const OpParams params_;
  const bool exact_;
  const int ranks_;
  const Bytes expected_;
  std::vector<double> magnitudes_;  // of what is added, by number
};

}  // namespace hora::conformance
