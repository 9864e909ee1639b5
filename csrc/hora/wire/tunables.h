#pragma once

#include <cstdint>

namespace hora {

// Settings that must be the same on every rank: rank 0's values travel when the group forms.
struct Tunables {
  std::uint64_t fusion_threshold_bytes = 0;
  std::uint64_t window_bytes = 0;
  std::uint32_t cache_capacity = 0;
  std::int32_t tree_fan_out = 0;

  friend bool operator==(const Tunables&, const Tunables&) = default;
};

}  // namespace hora
