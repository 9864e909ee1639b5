// Which agreed tensors travel together: a pure function of agreed data, so it never travels itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "hora/wire/response.h"

namespace hora {

struct Batch {
  OpParams params;                     // of its first member; the shape means nothing
  std::vector<std::uint32_t> members;  // indices into the planned responses, ascending
  // allgather: totals per rank. Otherwise one entry, the total.
  std::vector<std::uint64_t> bytes_per_rank;
};

// Responses with an error are left out. Members of a batch agree in everything but the shape (for
// broadcast, the dtype may differ too); a batch is at most `threshold_bytes` unless it has one
// member; barriers stay alone. Batches are ordered by their first member. 0 turns fusion off.
std::vector<Batch> PlanFusion(std::span<const Response> responses, int size,
                              std::size_t threshold_bytes);

}  // namespace hora
