#include "hora/tensor/shape.h"

#include <algorithm>

#include "hora/base/check.h"

namespace hora {
namespace {

std::int64_t Product(std::span<const std::int64_t> dims) {
  // First, because the other dimensions of an empty tensor may multiply to more than 64 bits hold.
  if (std::find(dims.begin(), dims.end(), 0) != dims.end()) return 0;
  std::int64_t product = 1;
  for (const std::int64_t dim : dims) {
    Check(dim > 0 && !__builtin_mul_overflow(product, dim, &product),
          "the number of elements of a tensor fits in 63 bits");
  }
  return product;
}

}  // namespace

Shape::Shape(std::span<const std::int64_t> dims) : rank_(dims.size()) {
  if (rank_ <= kInline) {
    std::copy(dims.begin(), dims.end(), few_.begin());
  } else {
    many_.assign(dims.begin(), dims.end());
  }
}

std::int64_t Shape::num_elements() const { return Product(dims()); }

Shape Shape::WithFirstDim(std::int64_t first) const {
  Check(rank_ != 0, "a scalar has no first dimension to replace");
  Shape changed = *this;
  (rank_ <= kInline ? changed.few_.front() : changed.many_.front()) = first;
  return changed;
}

std::int64_t Shape::elements_per_row() const {
  Check(rank_ != 0, "a scalar has no rows");
  return Product(dims().subspan(1));
}

std::string Shape::ToString() const {
  std::string text = "[";
  for (const std::int64_t dim : dims()) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dim);
  }
  return text + "]";
}

}  // namespace hora
