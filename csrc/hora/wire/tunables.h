#pragma once

#include <cstdint>

namespace hora {

// What may change while a job runs: the root puts new values into the stream of decisions, so that
// all ranks change at the same operation.
struct Tuning {
  std::uint64_t fusion_threshold_bytes = 0;
  std::uint64_t chunk_bytes = 0;            // of one step through the shared windows
  std::uint64_t small_allreduce_bytes = 0;  // up to here every rank reduces everything
  std::uint64_t urgent_bytes = 0;           // up to here an operation overtakes larger ones

  friend bool operator==(const Tuning&, const Tuning&) = default;
};

// Settings that must be the same on every rank: rank 0's values travel when the group forms.
struct Tunables {
  Tuning tuning;  // to begin with
  std::uint64_t window_bytes = 0;
  std::uint32_t cache_capacity = 0;
  std::int32_t tree_fan_out = 0;
  // 1: an average divides by all ranks of the set; 0: by those that have not joined.
  std::uint32_t join_divides_by_size = 0;
  std::uint32_t reserved = 0;

  friend bool operator==(const Tunables&, const Tunables&) = default;
};

}  // namespace hora
