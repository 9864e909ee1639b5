#include "hora/negotiation/tree_position.h"

#include <algorithm>
#include <cstdint>

#include "hora/base/check.h"

namespace hora {

TreePosition TreePosition::Of(int rank, int size, int fan_out) {
  Check(size >= 1 && rank >= 0 && rank < size && fan_out >= 1, "a rank has a place in its tree");
  TreePosition position{.rank = rank, .size = size};
  position.parent = rank == 0 ? -1 : (rank - 1) / fan_out;
  const std::int64_t first = std::int64_t{rank} * fan_out + 1;
  const std::int64_t end = std::min<std::int64_t>(size, first + fan_out);
  for (std::int64_t child = first; child < end; ++child) {
    position.children.push_back(static_cast<int>(child));
  }
  position.fan_out = fan_out;
  return position;
}

RankSet TreePosition::SubtreeOf(int top) const {
  RankSet subtree;
  // A level of a heap is a contiguous range of ranks.
  std::int64_t first = top;
  std::int64_t last = top;
  while (first < size) {
    for (std::int64_t member = first; member <= last && member < size; ++member) {
      subtree.Add(static_cast<int>(member));
    }
    first = first * fan_out + 1;
    last = last * fan_out + fan_out;
  }
  return subtree;
}

}  // namespace hora
