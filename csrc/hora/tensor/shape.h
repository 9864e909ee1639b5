#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace hora {

// Dimensions of a dense, row-major tensor. Rank 0 is a scalar with one element.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : dims_(dims) {}
  explicit Shape(std::vector<std::int64_t> dims) : dims_(std::move(dims)) {}

  int rank() const { return static_cast<int>(dims_.size()); }
  std::int64_t dim(int axis) const { return dims_[static_cast<std::size_t>(axis)]; }
  std::span<const std::int64_t> dims() const { return dims_; }
  std::int64_t num_elements() const;  // 64-bit; dims must be ≥ 0

  Shape WithFirstDim(std::int64_t first) const;  // needs rank ≥ 1
  std::int64_t elements_per_row() const;  // product of all dims but the first; needs rank ≥ 1

  std::string ToString() const;  // "[2, 3]"

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  std::vector<std::int64_t> dims_;
};

}  // namespace hora
