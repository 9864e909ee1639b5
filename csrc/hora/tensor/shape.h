#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

namespace hora {

// Dimensions of a dense, row-major tensor. Rank 0 is a scalar with one element. Copies of the usual
// ranks allocate nothing: a submission is copied from stage to stage.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims);
  explicit Shape(const std::vector<std::int64_t>& dims) : Shape(std::span(dims)) {}

  int rank() const { return static_cast<int>(rank_); }
  std::int64_t dim(int axis) const { return dims()[static_cast<std::size_t>(axis)]; }
  std::span<const std::int64_t> dims() const {
    return {rank_ <= kInline ? few_.data() : many_.data(), rank_};
  }
  std::int64_t num_elements() const;  // 64-bit; dims must be ≥ 0

  Shape WithFirstDim(std::int64_t first) const;  // needs rank ≥ 1
  std::int64_t elements_per_row() const;  // product of all dims but the first; needs rank ≥ 1

  std::string ToString() const;  // "[2, 3]"

  friend bool operator==(const Shape&, const Shape&) = default;

 private:
  static constexpr std::size_t kInline = 4;

  std::size_t rank_ = 0;
  std::array<std::int64_t, kInline> few_{};  // the dimensions, else 0, when there are so few …
  std::vector<std::int64_t> many_;           // … and otherwise all of them
};

}  // namespace hora
