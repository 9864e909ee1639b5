#include "hora/tensor/shape.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "hora/base/check.h"
#include "hora/tensor/tensor_view.h"

namespace hora {
namespace {

TEST(Shape, CountsElements) {
  EXPECT_EQ(Shape().num_elements(), 1);
  EXPECT_EQ(Shape({5}).num_elements(), 5);
  EXPECT_EQ(Shape({2, 3, 4}).num_elements(), 24);
  EXPECT_EQ(Shape({2, 0, 4}).num_elements(), 0);
}

TEST(Shape, CountsIn64Bits) {
  EXPECT_EQ(Shape({1 << 20, 1 << 20}).num_elements(), std::int64_t{1} << 40);
  EXPECT_THROW(Shape({1LL << 40, 1LL << 40}).num_elements(), InvariantError);
  EXPECT_EQ(Shape({1LL << 40, 1LL << 40, 0}).num_elements(), 0);
  EXPECT_THROW(Shape({2, -1}).num_elements(), InvariantError);
}

TEST(Shape, SplitsOffItsFirstDimension) {
  const Shape shape({2, 3, 4});
  EXPECT_EQ(shape.elements_per_row(), 12);
  EXPECT_EQ(shape.WithFirstDim(7), Shape({7, 3, 4}));
  EXPECT_EQ(shape, Shape({2, 3, 4}));
  EXPECT_EQ(Shape({9}).elements_per_row(), 1);
  EXPECT_THROW(Shape().elements_per_row(), InvariantError);
  EXPECT_THROW(Shape().WithFirstDim(1), InvariantError);
}

TEST(Shape, HoldsAnyNumberOfDimensions) {
  for (std::size_t rank = 0; rank <= 12; ++rank) {
    std::vector<std::int64_t> dims(rank);
    std::iota(dims.begin(), dims.end(), 2);
    const Shape shape(dims);
    const Shape copy = shape;  // NOLINT(performance-unnecessary-copy-initialization): the point
    EXPECT_EQ(shape.rank(), static_cast<int>(rank));
    EXPECT_TRUE(std::equal(dims.begin(), dims.end(), copy.dims().begin(), copy.dims().end()));
    EXPECT_EQ(copy, shape);
    if (rank == 0) continue;
    dims.back() = 1;
    EXPECT_NE(Shape(dims), shape);
    dims.back() = static_cast<std::int64_t>(rank + 1);
    dims.front() = 7;
    EXPECT_EQ(shape.WithFirstDim(7), Shape(dims));
    EXPECT_NE(Shape(std::span(dims).first(rank - 1)), shape);
  }
}

TEST(Shape, PrintsAsPyTorchDoes) {
  EXPECT_EQ(Shape().ToString(), "[]");
  EXPECT_EQ(Shape({2}).ToString(), "[2]");
  EXPECT_EQ(Shape({2, 3}).ToString(), "[2, 3]");
}

TEST(TensorView, KnowsItsBytes) {
  std::byte storage[48];
  const TensorView view{.data = storage, .dtype = DType::kFloat64, .device = {}, .shape = {2, 3}};
  EXPECT_EQ(view.nbytes(), 48u);
  EXPECT_EQ(view.bytes().data(), storage);
  EXPECT_EQ(TensorView{}.nbytes(), 1u);
}

}  // namespace
}  // namespace hora
