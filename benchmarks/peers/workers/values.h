// What is measured, the values that ranks bring to it, and those that must come out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace peers {

enum class Op { kAllreduce, kAllgather, kBroadcast, kReducescatter, kAlltoall };
enum class Type { kFloat32, kFloat16, kBFloat16 };

// A collective of one size, with the memory it works on; broadcasts and allreduces are in place.
struct Case {
  Op op = Op::kAllreduce;
  Type type = Type::kFloat32;
  std::string mode;
  std::size_t count = 0;  // elements of the larger side
  std::byte* input = nullptr;
  std::byte* output = nullptr;

  std::size_t element_bytes() const { return type == Type::kFloat32 ? 4 : 2; }
  std::size_t bytes() const { return count * element_bytes(); }
};

// The value that `rank` brings at `index`: small, so that sums are exact in every type.
inline int ValueAt(int rank, std::size_t index) { return rank + 1 + static_cast<int>(index % 7); }

// Bits of a small integer (0 … 255) as a 16-bit float.
inline std::uint16_t HalfBits(int value, Type type) {
  if (type == Type::kBFloat16) {
    const float single = static_cast<float>(value);
    std::uint32_t bits = 0;
    std::memcpy(&bits, &single, sizeof(bits));
    return static_cast<std::uint16_t>(bits >> 16);
  }
  if (value == 0) return 0;
  int exponent = 0;
  while (value >> (exponent + 1) != 0) ++exponent;
  const int mantissa = (value << (10 - exponent)) & 0x3ff;
  return static_cast<std::uint16_t>(((exponent + 15) << 10) | mantissa);
}

class Values {
 public:
  Values(const Case& what, int rank, int size) : case_(what), rank_(rank), size_(size) {}

  void Fill() const {
    const bool split = case_.op == Op::kAllgather;  // each rank sends a part
    const std::size_t count = split ? case_.count / static_cast<std::size_t>(size_) : case_.count;
    for (std::size_t i = 0; i < count; ++i) Put(case_.input, i, ValueAt(rank_, i));
  }

  std::size_t CountWrong() const {
    const std::size_t part = case_.count / static_cast<std::size_t>(size_);
    const std::size_t count = case_.op == Op::kReducescatter ? part : case_.count;
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < count; ++i) wrong += Differs(case_.output, i, Expected(i, part));
    return wrong;
  }

  // Zeros for the timed calls: their sums neither grow nor become denormal.
  void Clear() const {
    std::memset(case_.input, 0, case_.bytes());
    std::memset(case_.output, 0, case_.bytes());
  }

 private:
  int Expected(std::size_t i, std::size_t part) const {
    const std::size_t own = static_cast<std::size_t>(rank_) * part;
    switch (case_.op) {
      case Op::kAllreduce:
        return Sum(i);
      case Op::kReducescatter:
        return Sum(own + i);
      case Op::kBroadcast:
        return ValueAt(0, i);
      case Op::kAllgather:
        return ValueAt(static_cast<int>(i / part), i % part);
      case Op::kAlltoall:
        return ValueAt(static_cast<int>(i / part), own + i % part);
    }
    return 0;
  }
  int Sum(std::size_t i) const {
    int sum = 0;
    for (int r = 0; r < size_; ++r) sum += ValueAt(r, i);
    return sum;
  }
  void Put(std::byte* to, std::size_t i, int value) const {
    if (case_.type == Type::kFloat32) {
      reinterpret_cast<float*>(to)[i] = static_cast<float>(value);
    } else {
      reinterpret_cast<std::uint16_t*>(to)[i] = HalfBits(value, case_.type);
    }
  }
  bool Differs(const std::byte* from, std::size_t i, int value) const {
    if (case_.type == Type::kFloat32) {
      return reinterpret_cast<const float*>(from)[i] != static_cast<float>(value);
    }
    return reinterpret_cast<const std::uint16_t*>(from)[i] != HalfBits(value, case_.type);
  }

  const Case& case_;
  int rank_;
  int size_;
};

}  // namespace peers
