// How operations are cut into steps, and what a step passes through.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hora {

inline std::uint64_t CeilDivide(std::uint64_t a, std::uint64_t b) { return (a + b - 1) / b; }

// Memory that steps pass through; grows to what a step needs, and is kept.
inline std::span<std::byte> Room(std::vector<std::byte>& memory, std::size_t bytes) {
  if (memory.size() < bytes) memory.resize(bytes);
  return std::span(memory).first(bytes);
}

// What one rank moves to another (or to all) in as many steps as everybody takes: even shares, of
// whole elements and cache lines.
class Share {
 public:
  Share() = default;
  Share(std::uint64_t total, std::uint64_t steps)
      : total_(total), bytes_(steps == 0 ? 0 : CeilDivide(CeilDivide(total, steps), 64) * 64) {}

  std::uint64_t OffsetAt(std::uint64_t step) const { return std::min(step * bytes_, total_); }
  std::uint64_t BytesAt(std::uint64_t step) const { return OffsetAt(step + 1) - OffsetAt(step); }

 private:
  std::uint64_t total_ = 0;
  std::uint64_t bytes_ = 0;  // of every step but the last ones
};

}  // namespace hora
