// What of an allreduce can be reduced where it lies: in memory that all ranks see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "hora/tensor/byte_stream.h"

namespace hora {

// A piece of memory that every rank has at the same place of its slice: rank r's begins r · stride
// after the first one's.
struct SymmetricRange {
  std::byte* first = nullptr;
  std::size_t stride = 0;
  std::size_t bytes = 0;  // of each rank

  std::byte* of(int rank) const { return first + static_cast<std::size_t>(rank) * stride; }
};

// Ranks may differ in it: then nobody reduces in place.
struct InPlacePlan {
  std::uint64_t digest = 0;  // of what this rank could reduce in place; 0: nothing
  std::vector<SymmetricRange> ranges;
  std::uint64_t bytes = 0;  // of all ranges
  // The members that lie elsewhere; empty when there are none.
  ByteStream other_inputs;
  ByteStream other_outputs;
  bool done = false;  // an answer: the ranges were reduced in place
};

}  // namespace hora
