// Random numbers that are the same on every machine: a failing seed must replay.
#pragma once

#include <cstdint>

namespace hora::sim {

inline std::uint64_t Mix(std::uint64_t value) {  // the finaliser of splitmix64
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

template <class... Parts>
std::uint64_t Mix(std::uint64_t first, Parts... rest) {
  return Mix(first ^ Mix(static_cast<std::uint64_t>(rest)...));
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(Mix(seed)) {}

  std::uint64_t Next() { return Mix(state_++); }
  int Below(int bound) { return static_cast<int>(Next() % static_cast<std::uint64_t>(bound)); }
  int Between(int low, int high) { return low + Below(high - low + 1); }
  bool OneIn(int chances) { return Below(chances) == 0; }

  template <class Choices>
  auto Pick(const Choices& choices) {
    return *(choices.begin() + Below(static_cast<int>(choices.size())));
  }

 private:
  std::uint64_t state_;
};

}  // namespace hora::sim
